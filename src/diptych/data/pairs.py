"""Pairs: a source with one sample for each pair of a sample and one of its texts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diptych.data.compact import Strings
from diptych.data.sample import BadSample, Field, Sample, Schema, Source, Text
from diptych.data.wrap import Wrapped

ORIGIN = "origin"
"""The label that holds the index of a pair's sample; equal for pairs of the same image."""


def by_text(source: Source, role: str) -> Source:
    """A source with one sample per text of a role, or the source itself if no sample has several
    such texts.

    The decision is made by the first samples. A sample that cannot be read, or has no such text,
    remains one sample, so that the loader counts it as damaged.
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

    samples, texts (P,). So an epoch has each pair once, and the pairs of a sample are shuffled
    independently. The key is the sample's key with the number of the pair; the label `origin` is
    the sample's index in the source.
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
        """The samples' keys, each with the number of the pair."""
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
