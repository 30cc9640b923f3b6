"""Pairs: a source with one sample for each pair of a sample and a text that was found for it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diptych.data.compact import Strings
from diptych.data.sample import BadSample, Field, Sample, Schema, Source, Text
from diptych.data.wrap import Wrapped

ORIGIN = "origin"
"""The label that says which sample a pair came from: equal where the image is the same."""


def by_text(source: Source, role: str) -> Source:
    """A source with one sample for each text of a role, where a sample has several; else the source
    as it is.

    The first samples show whether it is read whole. A sample that cannot be read, or has no such
    text, stays one, so that it is counted when it is met.
    """
    if all(len(_texts(source, at, role)) < 2 for at in range(min(len(source), _FIRST))):
        return source
    table: list[str] = []
    samples: list[int] = []
    for at in range(len(source)):
        found = _texts(source, at, role) or [""]
        table += found
        samples += [at] * len(found)
    return Paired(source, np.array(samples), np.arange(len(table)), Strings(table), role)


_FIRST = 100  # samples that show whether samples have several texts


def _texts(source: Source, at: int, role: str) -> list[str]:
    try:
        return [text for text in source[at].captions(role) if text.strip()]
    except BadSample:
        return []


class Paired(Wrapped):
    """Pair p is sample `samples[p]` of `source` with `table[texts[p]]` as its only text, of role
    `role`.

    samples, texts (P,). So an epoch meets each pair once, and the pairs of a sample apart from each
    other. Its key is the sample's with the number of the pair; its label `origin` is the sample's
    place in the source.
    """

    def __init__(
        self,
        source: Source,
        samples: np.ndarray,
        texts: np.ndarray,
        table: Sequence[str],
        role: str,
    ):
        assert len(samples) == len(texts)
        super().__init__(source, samples)
        self.samples = samples
        self.texts = texts
        self.table = table
        self.role = role

    def __getitem__(self, index: int) -> Sample:
        at = range(len(self))[index]
        sample = super().__getitem__(at)
        text = Text(text=self.table[int(self.texts[at])], role=self.role)
        labels = {**sample.labels, ORIGIN: int(self.samples[at])}
        return replace(sample, key=f"{sample.key}#{at}", texts=[text], labels=labels)

    def keys(self) -> Sequence[str]:
        """The keys of the samples, each with the number of the pair."""
        return [f"{key}#{at}" for at, key in enumerate(super().keys())]

    def labels(self, name: str) -> np.ndarray:
        """One label of every pair (P,)."""
        return self.samples if name == ORIGIN else super().labels(name)

    def schema(self) -> Schema:
        """The fields of the source, its texts replaced by the pairs'."""
        kept = {
            name: field for name, field in super().schema().items() if not name.startswith("texts.")
        }
        return {
            **kept,
            f"texts.{self.role}": Field(kind="text"),
            f"labels.{ORIGIN}": Field(kind="int"),
        }
