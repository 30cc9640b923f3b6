"""Bytes to volumes: NumPy's .npy and NIfTI-1 (.nii, .nii.gz), such as CT scans in Hounsfield units.

A volume is an array (D, H, W): slices from feet to head, rows from front to back, columns from the
patient's right to the left, as axial slices are shown. NIfTI files are brought into this order by
their affine, along its nearest axes; .npy files must have it.

nibabel reads NIfTI (extra `medical`).

Dimensions: D slices, H rows, W columns.
"""

import io
import zlib

import numpy as np
from PIL import Image

from diptych.data.npy_files import read_npy
from diptych.data.sample import BadSample
from diptych.errors import brief

VOLUMES = ("npy", "nii", "nii.gz")
"""The extensions of files that are read as volumes."""

MOST_BYTES = 2**31
"""The largest volume, unpacked, that is read."""

_NPY = b"\x93NUMPY"
_GZIP = b"\x1f\x8b"
_MAGIC = b"n+1\0"
_HEADER = 348


def is_volume(data: bytes) -> bool:
    """Whether bytes are a volume's, by their beginning.

    >>> is_volume(b"\\x93NUMPY"), is_volume(b"\\x89PNG")
    (True, False)
    """
    return data.startswith((_NPY, _GZIP)) or data[344:_HEADER] == _MAGIC


def volume_ending(data: bytes) -> str:
    """The extension of a volume in a tar shard, by its first bytes; `.npy` alone is an array there.

    >>> volume_ending(npy_bytes(np.zeros((1, 1, 1))))
    'volume.npy'
    """
    if data.startswith(_NPY):
        return "volume.npy"
    return "nii.gz" if data.startswith(_GZIP) else "nii"


def read_volume(data: bytes) -> np.ndarray:
    """The volume (D, H, W) that bytes hold.

    Raises BadSample: unsupported (of another format or number type), axes (not three of them),
    bomb, truncated, unreadable, not-finite, and npy and pickled as `read_npy`.
    """
    if data.startswith(_GZIP):
        data = _unpacked(data)
    if data.startswith(_NPY):
        return checked(read_npy(data))
    if data[344:_HEADER] == _MAGIC:
        return checked(_nifti(data))
    raise BadSample("unsupported", "no volume: it begins neither as .npy nor as NIfTI-1")


def checked(volume: np.ndarray) -> np.ndarray:
    """The volume; raises BadSample unless it has three axes of finite numbers."""
    if volume.ndim != 3 or 0 in volume.shape:
        raise BadSample(
            "axes", f"a volume has the axes slices, rows and columns, this one is {volume.shape}"
        )
    if volume.dtype.kind not in "iufb":
        raise BadSample("unsupported", f"a volume of {volume.dtype}")
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        raise BadSample("not-finite", "a volume holds what is no number")
    return volume


def npy_bytes(volume: np.ndarray) -> bytes:
    """A volume as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, volume, allow_pickle=False)
    return buffer.getvalue()


def middle_slice(volume: np.ndarray) -> Image.Image:
    """The middle slice of a volume as a grey RGB image, black at its 1st percentile and white at
    its 99th.

    >>> middle_slice(np.zeros((4, 6, 8))).size
    (8, 6)
    """
    plane = np.asarray(volume[len(volume) // 2], np.float32)
    low, high = np.percentile(plane, (1, 99))
    share = (plane - low) / max(float(high - low), 1e-6)
    return Image.fromarray(np.rint(255 * share.clip(0, 1)).astype(np.uint8)).convert("RGB")


def _unpacked(data: bytes) -> bytes:
    unpack = zlib.decompressobj(wbits=31)
    try:
        found = unpack.decompress(data, MOST_BYTES)
    except zlib.error as error:
        raise BadSample("unreadable", f"a damaged .gz file ({error})") from None
    if unpack.unconsumed_tail:
        raise BadSample("bomb", f"a volume unpacks to more than {MOST_BYTES:,} bytes")
    if not unpack.eof:
        raise BadSample("truncated", "a .gz file ends too early")
    return found


def _nifti(data: bytes) -> np.ndarray:
    """The numbers of a NIfTI file, scaled, in the order of axial slices."""
    try:
        import nibabel
    except ImportError:
        raise BadSample(
            "unsupported", "NIfTI needs nibabel; install it with pip install 'diptych[medical]'"
        ) from None
    from nibabel import orientations
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nibabel.Nifti1Image.from_bytes(data)
        values = np.asarray(image.dataobj)
    except OSError as error:
        raise BadSample("truncated", f"a NIfTI file ends too early ({brief(error)})") from None
    except (HeaderDataError, ValueError) as error:
        raise BadSample("unsupported", f"a NIfTI file of another kind ({brief(error)})") from None
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise BadSample("axes", f"a volume has three axes, this NIfTI file {values.shape}")
    # columns run to the left, rows to the back, slices to the head
    turn = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt("LPS")
    )
    axial = orientations.apply_orientation(values, turn).transpose(2, 1, 0)
    return np.ascontiguousarray(axial, axial.dtype.newbyteorder("="))
