"""Two emotions with their explanations of one image, as a decoder reads them.

Dimensions: B samples, L text length.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.emotions import FIELDS, felt
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Phrasing:
    """How an emotion and its explanation are said: OPENING emotion JOINT explanation."""

    tokenizer: Tokenizer
    opening: str = "the emotion is"
    joint: str = "because"

    def ids(self, *parts: str) -> list[int]:
        """The ids of some parts of a text, each of which begins a word."""
        return [number for part in parts for number in self._word(part)]

    def _word(self, text: str) -> list[int]:
        text = text.strip()
        return self.tokenizer.ids(f" {text}") if text else []

    def asked(self, emotion: str | None = None) -> list[int]:
        """What is read before an emotion is written, or before the explanation of a given one."""
        said = [self.opening] if emotion is None else [self.opening, emotion, self.joint]
        return [*self.tokenizer.before, *self.ids(*said)]

    def written(self, emotion: str, explanation: str, length: int) -> list[int]:
        """A whole text of at most `length` ids; one that is cut has no end.

        Raises BadSample("no-room") if no word of the explanation fits.
        """
        before = self.asked(emotion)
        if len(before) >= length:
            raise BadSample("no-room", f"{len(before)} tokens before an explanation fill {length}")
        return [*before, *self.ids(explanation), *self.tokenizer.after][:length]


@dataclass(frozen=True, kw_only=True)
class PairedView:
    """Two texts of a sample with different emotions, texts.main (B, 2, L), of at most `length` ids.

    In training the first is a random one, and the second a random one of another emotion; else they are
    the first, and the first of another emotion. Raises BadSample for a sample with one emotion, or a text
    without room for an explanation.
    """

    phrasing: Phrasing
    length: int
    reads = FIELDS
    gives = ("texts.main",)
    several = FIELDS
    """Fields of which a sample has several texts."""

    @property
    def tokenizer(self) -> Tokenizer:
        return self.phrasing.tokenizer

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        said = felt(sample)
        train = progress is not None
        first = int(rng.integers(len(said))) if train else 0
        others = [each for each in said if each[0] != said[first][0]]
        if not others:
            raise BadSample("one-emotion", f"{sample.key} has no two different emotions")
        second = others[int(rng.integers(len(others))) if train else 0]
        rows = [self.phrasing.written(*each, self.length) for each in (said[first], second)]
        return {"texts.main": rows}
