"""Read some rows of vectors that lie in memory-mapped files."""

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

_ROWS = 64  # read at once; the system may map 64 kB around each
_FAR = 32  # rows between two that are read, on average, from which reading ahead does not pay


def take(vectors: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return rows (N,), in any order, of consecutive arrays, as one array (N, E).

    Of mapped files no page stays mapped, so that memory does not grow with the rows that are read.

    >>> take([np.array([[0.0], [1.0]]), np.array([[2.0]])], np.array([2, 0])).tolist()
    [[2.0], [0.0]]
    """
    starts = np.cumsum([0, *map(len, vectors)])
    taken = np.empty((len(rows), vectors[0].shape[1]), vectors[0].dtype)
    numbers = np.searchsorted(starts, rows, side="right") - 1
    for number in np.unique(numbers):
        here = np.flatnonzero(numbers == number)
        for at in range(0, len(here), _ROWS):
            some = here[at : at + _ROWS]
            with _sparing(vectors[number], rows[some]):
                taken[some] = vectors[number][rows[some] - starts[number]]
    return taken


@contextmanager
def _sparing(vectors: np.ndarray, rows: np.ndarray) -> Iterator[None]:
    """Read of a mapped file little more than the rows, and keep none of it mapped afterwards.

    Else the system reads the file around each row, up to megabytes, and a process that reads rows
    here and there holds all of it in the end. The system's cache keeps the pages while memory is
    free: reading them again is cheap.
    """
    file = vectors.base
    if not isinstance(file, mmap.mmap):
        yield
        return
    if len(rows) < _ROWS or np.ptp(rows) > _FAR * len(rows):
        file.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        file.madvise(mmap.MADV_NORMAL)
        file.madvise(mmap.MADV_DONTNEED)
