"""Sources over another source: what a subset, a filter or added columns share."""

from collections.abc import Iterator, Mapping, Sequence
from operator import eq
from typing import Any

import numpy as np

from diptych.data.sample import Sample, Schema, Source, labels_of


class Wrapped:
    """A source over another source: its samples, or those at `rows` (K,), in that order.

    A subclass overrides what it changes, most often `__getitem__` and `schema`. Without a `name` of
    its own it has that of the source. Nothing is read or copied before it is asked for.

    >>> from diptych.testing import Toy
    >>> source = Wrapped(Toy(8, ["labels.colour"]), np.array([5, 2]))
    >>> len(source), source[0].key, list(source.keys()), source.labels("colour").tolist()
    (2, '005', ['005', '002'], [5, 2])
    """

    def __init__(
        self, source: Source, rows: np.ndarray | range | None = None, name: str | None = None
    ):
        self.source = source
        self.rows = rows
        self.name = source.name if name is None else name

    def __len__(self) -> int:
        return len(self.source if self.rows is None else self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.source[index if self.rows is None else int(self.rows[index])]

    def keys(self) -> Sequence[str]:
        """The keys that the samples have in the source, looked up when asked for."""
        keys = self.source.keys()
        return keys if self.rows is None else _Keys(keys, self.rows)

    def labels(self, name: str) -> np.ndarray:
        """One label of every sample (K,); no image is decoded."""
        return labels_of(self.source, name, self.rows)

    @property
    def damage(self) -> Mapping[str, str]:
        """What the source lost while it was indexed: place -> reason."""
        return getattr(self.source, "damage", {})

    def schema(self) -> Schema:
        """The fields of the source."""
        return self.source.schema()


class _Keys(Sequence[str]):
    """Some of the keys of a source, looked up when asked for; equal to any sequence of the same
    keys."""

    def __init__(self, keys: Sequence[str], rows: np.ndarray | range):
        self._keys = keys
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Keys(self._keys, self._rows[index])
        return self._keys[int(self._rows[index])]

    def __iter__(self) -> Iterator[str]:
        return (self._keys[int(row)] for row in self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))
