"""Bytes to volumes: NumPy's .npy and NIfTI-1 (.nii, .nii.gz), such as CT scans in Hounsfield units.

A volume is an array (D, H, W): slices from feet to head, rows from front to back, columns from the
patient's right to the left, as axial slices are shown. NIfTI files are brought into this order by
their affine, along its nearest axes; .npy files must have it.

Source: the NIfTI-1 standard (Cox et al. 2004), its header of 348 bytes.

Dimensions: D slices, H rows, W columns.
"""

import io
import struct
import zlib
from itertools import permutations

import numpy as np
from PIL import Image

from diptych.data.sample import BadSample

VOLUMES = ("npy", "nii", "nii.gz")
"""The extensions of files that are read as volumes."""

MOST_BYTES = 2**31
"""The largest volume, unpacked, that is read."""

_NPY = b"\x93NUMPY"
_GZIP = b"\x1f\x8b"
_MAGIC = b"n+1\0"
_HEADER = 348
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
"""NumPy's name of each number type of NIfTI."""


def is_volume(data: bytes) -> bool:
    """Whether bytes are a volume's, by their beginning.

    >>> is_volume(b"\\x93NUMPY"), is_volume(b"\\x89PNG")
    (True, False)
    """
    return data.startswith((_NPY, _GZIP)) or data[344:_HEADER] == _MAGIC


def read_volume(data: bytes) -> np.ndarray:
    """The volume (D, H, W) that bytes hold.

    Raises BadSample: unsupported (of another format or number type), axes (not three of them),
    bomb, truncated, unreadable, not-finite.
    """
    if data.startswith(_GZIP):
        data = _unpacked(data)
    if data.startswith(_NPY):
        return checked(_npy(data))
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


def _npy(data: bytes) -> np.ndarray:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadSample("unreadable", f"a damaged .npy file ({error})") from None


def _nifti(data: bytes) -> np.ndarray:
    """The numbers of a NIfTI file, scaled, in the order of axial slices."""
    order = "<" if struct.unpack_from("<i", data)[0] == _HEADER else ">"
    count, *shape = struct.unpack_from(f"{order}8h", data, 40)
    (kind,) = struct.unpack_from(f"{order}h", data, 70)
    offset, slope, inter = struct.unpack_from(f"{order}3f", data, 108)
    if kind not in _TYPES:
        raise BadSample("unsupported", f"a NIfTI file of number type {kind}")
    shape = shape[: max(count, 0)]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3 or min(shape) < 1:
        raise BadSample("axes", f"a volume has three axes, this NIfTI file {tuple(shape)}")
    dtype = np.dtype(order + _TYPES[kind])
    size = int(np.prod(shape))
    if len(data) < int(offset) + size * dtype.itemsize:
        raise BadSample("truncated", f"a NIfTI file of {tuple(shape)} ends too early")
    values = np.frombuffer(data, dtype, size, int(offset)).reshape(shape, order="F")
    volume = values.astype(dtype.newbyteorder("="))
    if slope not in (0.0, 1.0) or (slope == 1.0 and inter):
        volume = volume.astype(np.float32) * np.float32(slope) + np.float32(inter)
    return _axial(volume, _directions(data, order))


def _directions(data: bytes, order: str) -> np.ndarray:
    """Column j is the direction of voxel axis j: right, front, head (the form's, else the
    quaternion's, else those of the axes)."""
    quaternion, form = struct.unpack_from(f"{order}2h", data, 252)
    if form > 0:
        rows = np.array(struct.unpack_from(f"{order}12f", data, 280)).reshape(3, 4)
        return rows[:, :3]
    if quaternion <= 0:
        return np.eye(3)
    b, c, d = struct.unpack_from(f"{order}3f", data, 256)
    a = max(0.0, 1 - b * b - c * c - d * d) ** 0.5
    found = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    (handed,) = struct.unpack_from(f"{order}f", data, 76)
    found[:, 2] *= -1 if handed < 0 else 1
    return found


def _axial(volume: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The volume with axes head, back, left, by the permutation and the flips nearest to its
    directions."""
    unit = directions / np.linalg.norm(directions, axis=0).clip(1e-12)
    best = max(permutations(range(3)), key=lambda own: sum(abs(unit[i, own[i]]) for i in range(3)))
    wanted = (-1, -1, 1)  # columns run to the left, rows to the back, slices to the head
    for world, axis in enumerate(best):
        if unit[world, axis] * wanted[world] < 0:
            volume = np.flip(volume, axis)
    return np.ascontiguousarray(volume.transpose(best[2], best[1], best[0]))
