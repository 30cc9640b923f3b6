"""Read arrays of numbers from .npy files, in several threads, without unpickling."""

import io
import math
import threading
from functools import lru_cache
from typing import Any

import numpy as np

from diptych.data.sample import BadSample
from diptych.errors import brief


def read_npy(data: bytes) -> np.ndarray:
    """Read a NumPy array of numbers. Raises BadSample: pickled (object arrays, which would run
    code), or npy."""
    try:
        head = _npy_head(data)
        shape, by_columns, kind = _npy_header(head)
    except Exception as error:  # damaged headers raise many kinds of exceptions
        raise BadSample("npy", brief(error)) from error
    if kind.hasobject:
        raise BadSample("pickled", "an array of objects, which would have to be unpickled")
    if kind.kind not in "biufc":
        raise BadSample("npy", f"an array of {brief(str(kind), 40)}, not of numbers")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * kind.itemsize > len(data) - len(head):
        raise BadSample("npy", f"an array of shape {brief(str(shape), 40)} in {len(data):,} bytes")
    order = "F" if by_columns else "C"
    try:
        if not count:
            return np.empty(shape, kind, order)
        values = np.frombuffer(data, kind, count, offset=len(head))
        return values.reshape(shape, order=order).copy(order)
    except (ValueError, OverflowError, MemoryError) as error:  # a shape such as (0, 10**30)
        raise BadSample("npy", brief(error)) from error


def _npy_head(data: bytes) -> bytes:
    """The part of an array's file in front of its values."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    start = file.tell() + (2 if version == (1, 0) else 4)
    return data[: start + int.from_bytes(data[file.tell() : start], "little")]


_PARSING = threading.Lock()
"""NumPy parses a header by `ast`, which fails at random in two threads at once, in some versions of
Python 3.11 and 3.12."""


@lru_cache(maxsize=1024)  # the samples of a source have few different headers
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape, the order and the type of the values behind a header."""
    file = io.BytesIO(head)
    first = np.lib.format.read_magic(file) == (1, 0)
    with _PARSING:
        if first:
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)
