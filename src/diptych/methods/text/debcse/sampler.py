"""The sampler: probabilities of positives and negatives, which weigh a pair by the inverse of how
likely a simple rule makes it.

Dimensions: N sentences, K candidates of a sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PairSampler:
    """Probabilities of candidates (N, K), from their meaning m and their surface s, both in [0, 1].

        positives    p ∝ exp(m / t) / clip(s, e, 1),        m ≥ a;   simple rules favour equal surfaces
        negatives    p ∝ exp(m / t) / clip(1 - s, e, 1),    m ≤ b;    simple rules favour other surfaces

    a is `min_positive` and b is `max_negative`. The meaning of what is no candidate is -inf. A row
    without any has probabilities 0. Without `propensity` the divisors are 1; without `guard` there
    is no upper bound of m.
    """

    temperature: float = 0.05
    clip: float = 0.1
    min_positive: float = 0.7
    max_negative: float = 0.9
    propensity: bool = True
    guard: bool = True

    def positives(self, meaning: np.ndarray, surface: np.ndarray) -> np.ndarray:
        """Return probabilities of positives (N, K).

        >>> sampler = PairSampler(min_positive=0.0)
        >>> sampler.positives(np.array([[0.95, 0.9, 0.85, 0.6]]), np.array([[0.99, 0.5, 0.2, 0.1]])).round(4)
        array([[0.4154, 0.3026, 0.2783, 0.0038]])
        """
        return self._normalised(meaning, self._propensity(surface), meaning >= self.min_positive)

    def negatives(self, meaning: np.ndarray, surface: np.ndarray) -> np.ndarray:
        """Return probabilities of negatives (N, K)."""
        return self._normalised(meaning, self._propensity(1 - surface), ~self.guarded(meaning))

    def guarded(self, meaning: np.ndarray) -> np.ndarray:
        """Return which pairs mean too nearly the same to be negatives."""
        return meaning > self.max_negative if self.guard else np.zeros(np.shape(meaning), bool)

    def inverse(self, surface: np.ndarray) -> np.ndarray:
        """Return the inverse propensities of negatives."""
        return 1 / self._propensity(1 - surface)

    def _propensity(self, chance: np.ndarray) -> np.ndarray:
        """How likely a simple rule makes a pair, clipped, so that no pair takes all the mass."""
        return np.clip(chance, self.clip, 1) if self.propensity else np.ones_like(chance)

    def _normalised(
        self, meaning: np.ndarray, propensity: np.ndarray, allowed: np.ndarray
    ) -> np.ndarray:
        logits = np.where(allowed, meaning / self.temperature - np.log(propensity), -np.inf)
        top = logits.max(-1, keepdims=True)
        weights = np.exp(logits - np.where(np.isfinite(top), top, 0))
        return weights / np.maximum(weights.sum(-1, keepdims=True), np.finfo(float).tiny)


def draw(probabilities: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` candidates of each row (N, K) without replacement; -1 where there are no more.

    The greatest log p + g of independent Gumbel numbers g are such a draw (Kool et al. 2019).

    >>> draw(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), 2, np.random.default_rng(0))
    array([[ 1, -1],
           [-1, -1]])
    """
    with np.errstate(divide="ignore"):
        keys = np.log(probabilities) + rng.gumbel(size=probabilities.shape)
    count = min(count, keys.shape[1])
    order = np.argsort(-keys, axis=1, kind="stable")[:, :count]
    return np.where(np.isfinite(np.take_along_axis(keys, order, 1)), order, -1)


@dataclass(frozen=True)
class Candidate:
    """A candidate of a sentence as `Pool.inspect` shows it: where it is from, its meaning and
    surface, and the probability of its draw."""

    side: str
    origin: str
    text: str
    meaning: float
    surface: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class Side:
    """The candidates of one side, positives or negatives: origins (N, K), meanings, surfaces and
    probabilities (N, K), and the `text` of an origin for a sentence."""

    origins: np.ndarray
    meaning: np.ndarray
    surface: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The candidates from which the pairs of an epoch were drawn. An origin is the row of another
    sentence, or -1 - n for the n-th of a sentence's `own` candidates, which are named `kinds`."""

    texts: Sequence[str]
    own: Sequence[Sequence[str]]
    kinds: Sequence[str]
    positives: Side
    negatives: Side
    drawn: np.ndarray

    def inspect(self, sentence: str | int, count: int = 10) -> list[Candidate]:
        """Return the likeliest candidates of a sentence of the data, or of that of a row: at most
        `count` of each side.

        Raises InputError for another sentence.
        """
        row = sentence if isinstance(sentence, int) else self._row(sentence)
        found = []
        for name, side in (("positive", self.positives), ("negative", self.negatives)):
            order = np.argsort(-side.probability[row], kind="stable")
            real = [int(at) for at in order if np.isfinite(side.meaning[row, at])]
            found += [self._candidate(name, side, row, at) for at in real[:count]]
        return found

    def _row(self, sentence: str) -> int:
        if sentence not in self.texts:
            raise InputError(
                f"{sentence!r} is no sentence of the data that pairs were drawn from; give one of its "
                f"{len(self.texts):,} texts or its row"
            )
        return list(self.texts).index(sentence)

    def _candidate(self, name: str, side: Side, row: int, at: int) -> Candidate:
        origin = int(side.origins[row, at])
        own = -1 - origin
        return Candidate(
            side=name,
            origin=str(origin) if origin >= 0 else self.kinds[min(own, len(self.kinds) - 1)],
            text=self.texts[origin] if origin >= 0 else self.own[row][own],
            meaning=round(float(side.meaning[row, at]), 4),
            surface=round(float(side.surface[row, at]), 4),
            probability=round(float(side.probability[row, at]), 4),
        )

    def false_negatives(self, meanings: np.ndarray) -> float:
        """Return the share of the drawn negatives whose true meaning, a number for each sentence
        (N,), is that of their sentence."""
        rows, places = np.nonzero(self.drawn >= 0)
        if not len(rows):
            return 0.0
        return float((meanings[self.drawn[rows, places]] == meanings[rows]).mean())

    def lines(self, count: int) -> list[Mapping[str, Any]]:
        """Return `inspect` of the first sentences as plain values."""
        return [
            {"sentence": self.texts[row], "candidates": [vars(each) for each in self.inspect(row)]}
            for row in range(min(count, len(self.texts)))
        ]
