"""The base of sources that wrap another one: subsets, filters, added columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import eq
from typing import Any

import numpy as np

from diptych.data.sample import Box, Sample, Schema, Source, labels_of
from diptych.errors import unknown


class Wrapped:
    """A source that wraps another: its samples, or those at `rows` (K,), in that order.

    A subclass overrides what it changes, usually `__getitem__` and `schema`. The default `name` is
    that of the source. Reading is lazy, and nothing is copied.

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
        """The keys of the samples in the source, looked up lazily."""
        keys = self.source.keys()
        return keys if self.rows is None else _Keys(keys, self.rows)

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (K,), without decoding images."""
        return labels_of(self.source, name, self.rows)

    @property
    def damage(self) -> Mapping[str, str]:
        """The samples that the source lost when it was indexed: place -> reason."""
        return getattr(self.source, "damage", {})

    def schema(self) -> Schema:
        """The fields of the source."""
        return self.source.schema()


class Only(Wrapped):
    """The samples of a source with some of their fields, named as in its schema; small shards and
    quick reading for a training that looks at no others.

    Raises InputError for a field that the source lacks.

    >>> from diptych.testing import Toy
    >>> source = Only(Toy(8, ["texts.caption", "labels.colour"]), ["labels.colour"])
    >>> sorted(source.schema()), source[0].labels, source[0].texts
    (['labels.colour'], {'colour': 0}, ())
    """

    def __init__(self, source: Source, fields: Sequence[str]):
        super().__init__(source)
        self.fields = tuple(fields)
        known = source.schema()
        for name in fields:
            if name not in known:
                raise unknown(f"field of {source.name}", name, known)

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return replace(
            sample,
            images=self._named("images", sample.images),
            texts=tuple(text for text in sample.texts if f"texts.{text.role}" in self.fields),
            labels=self._named("labels", sample.labels),
            boxes=self._boxes(sample.boxes) if "boxes" in self.fields else (),
            masks=self._named("masks", sample.masks),
            arrays=self._named("arrays", sample.arrays),
            edits=sample.edits if "edits" in self.fields else (),
        )

    def _boxes(self, boxes: Sequence[Box]) -> Sequence[Box]:
        if "boxes.mask" in self.fields or "boxes.mask" not in self.source.schema():
            return boxes
        return [replace(box, mask=None) for box in boxes]

    def _named(self, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if f"{kind}.{name}" in self.fields}

    def schema(self) -> Schema:
        known = super().schema()
        return {name: known[name] for name in self.fields}


class _Keys(Sequence[str]):
    """Some keys of a source, looked up lazily; equal to any sequence of the same keys."""

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
