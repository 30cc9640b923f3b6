"""Compact indexes of millions of samples: a few arrays instead of many objects.

A Python list of ten million strings takes 700 MB, and forked workers copy it page by page as
reference counts change, which looks like a memory leak. The same strings in one buffer take only
the bytes of their characters, and workers share or pickle the buffer whole.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diptych.spec import Spec


def is_folder(spec: Spec) -> bool:
    """Whether the spec's name is a folder; False for any other text, however long."""
    return os.path.isdir(spec.name)  # noqa: PTH112  (Path.is_dir raises for long texts)


def hash64(data: bytes) -> int:
    """A 64-bit BLAKE2 hash, the same in every process, unlike Python's hash."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class Strings(Sequence[str]):
    """An immutable sequence of strings in one byte buffer.

    >>> words = Strings(["a", "", "long"])
    >>> len(words), words[2], list(words[1:])
    (3, 'long', ['', 'long'])
    """

    def __init__(self, texts: Iterable[str] = ()):
        parts = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._buffer = np.frombuffer(b"".join(parts), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        return (
            self._buffer[start : int(self._ends[index])]
            .tobytes()
            .decode("utf-8", "surrogateescape")
        )

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The two arrays that hold the strings, under names that begin with `name`."""
        return {f"{name}_ends": self._ends, f"{name}_buffer": self._buffer}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], name: str) -> "Strings":
        """The inverse of `arrays`."""
        strings = cls()
        strings._ends = arrays[f"{name}_ends"]
        strings._buffer = arrays[f"{name}_buffer"]
        return strings


class Groups:
    """Groups of rows with equal `ids` (N,), in order of first appearance.

    >>> groups = Groups(np.array([7, 3, 7]))
    >>> len(groups), groups[0].tolist(), groups[1].tolist()
    (2, [0, 2], [1])
    """

    def __init__(self, ids: np.ndarray):
        _, first, inverse, counts = np.unique(
            ids, return_index=True, return_inverse=True, return_counts=True
        )
        rank = np.empty(len(first), np.int64)  # sorted id -> place in order of first appearance
        rank[np.argsort(first, kind="stable")] = np.arange(len(first))
        self._rows = np.argsort(rank[inverse], kind="stable")
        self._ends = np.cumsum(counts[np.argsort(rank, kind="stable")])

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]
        return self._rows[self._ends[index - 1] if index else 0 : self._ends[index]]
