"""Sections of reports as texts, whose sentences come in a new order each time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.sample import Sample
from diptych.data.views import MaskedTextView, TextView, sentences
from diptych.data.views.texts import merged


def shuffled(text: str, rng: np.random.Generator) -> str:
    """The sentences of a text in random order.

    >>> shuffled("No effusion. A nodule. Clear bones.", np.random.default_rng(0))
    'Clear bones. No effusion. A nodule'
    """
    said = sentences(text)
    return merged([said[at] for at in rng.permutation(len(said))])


@dataclass(frozen=True, kw_only=True)
class SectionView(TextView):
    """The text of the first of some roles that a sample has; if `shuffle`, its sentences are in
    random order in training."""

    first: bool = True
    shuffle: bool = True

    def said(self, text: str, rng: np.random.Generator, progress: float | None) -> str:
        return shuffled(text, rng) if self.shuffle and progress is not None else text


@dataclass(frozen=True, kw_only=True)
class MaskedSectionView(MaskedTextView):
    """The text of a `SectionView` with masked words. With `like` and the same roles it is the same
    text in the same order."""

    first: bool = True
    shuffle: bool = True

    said = SectionView.said


@dataclass(frozen=True, kw_only=True)
class BothView:
    """Whether a sample has texts of both roles, as fields.both (B,) bool."""

    roles: tuple[str, str]
    reads = ()
    gives = ("fields.both",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        there = [any(text.strip() for text in sample.captions(role)) for role in self.roles]
        return {"fields.both": all(there)}
