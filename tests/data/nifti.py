"""Writes NIfTI-1 files byte by byte, after the standard, for tests of what reads them."""

import gzip
import struct

import numpy as np

TYPES = {np.dtype("u1"): 2, np.dtype("i2"): 4, np.dtype("f4"): 16, np.dtype("u2"): 512}


def nifti(
    values: np.ndarray,
    rows=((-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0)),
    *,
    slope=0.0,
    inter=0.0,
    order="<",
    quaternion=None,
    packed=False,
) -> bytes:
    """A file with the axes of `values` and the affine `rows`, or a `quaternion` (b, c, d, handed)."""
    header = bytearray(348)
    struct.pack_into(f"{order}i", header, 0, 348)
    shape = [values.ndim, *values.shape] + [1] * (7 - values.ndim)
    struct.pack_into(f"{order}8h", header, 40, *shape)
    struct.pack_into(f"{order}2h", header, 70, TYPES[values.dtype], 8 * values.itemsize)
    handed = 1.0 if quaternion is None else quaternion[3]
    struct.pack_into(f"{order}8f", header, 76, handed, *[1.0] * 7)
    struct.pack_into(f"{order}3f", header, 108, 352.0, slope, inter)
    struct.pack_into(f"{order}2h", header, 252, quaternion is not None, quaternion is None)
    if quaternion is not None:
        struct.pack_into(f"{order}3f", header, 256, *quaternion[:3])
    for at, row in zip((280, 296, 312), rows, strict=True):
        struct.pack_into(f"{order}4f", header, at, *row)
    header[344:348] = b"n+1\0"
    data = bytes(header) + bytes(4) + values.astype(values.dtype.newbyteorder(order)).tobytes("F")
    return gzip.compress(data, mtime=0) if packed else data  # test ids hold it
