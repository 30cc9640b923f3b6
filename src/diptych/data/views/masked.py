"""Texts with masked ids: words to be restored in place, and spans to be restored by a decoder.

Dimensions: B samples, C captions, L text length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diptych.data.sample import BadSample, Sample
from diptych.data.views.texts import TextView
from diptych.errors import InputError


@dataclass(frozen=True, slots=True)
class Masked:
    """The ids of a caption after masking, and for each the id that was there (-1: not masked)."""

    ids: Sequence[int]
    marks: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class MaskedTextView(TextView):
    """Texts of `TextView` of which a share `rate` of the ids is masked, with their marks (B, C, L).

    Of the chosen ids a share `kept` stays, a share `random` becomes another random id, and all
    others become the tokenizer's special token "mask". With `whole_word`, whole words are chosen;
    with `ends`, the special ids behind a text may be too. A text of which no id was chosen has one
    with `min_masked=1`. Ids are also chosen outside training, from the generator. Source: Devlin et al.
    2019 (BERT).
    """

    rate: float = 0.15
    kept: float = 0.1
    random: float = 0.1
    whole_word: bool = False
    ends: bool = False
    min_masked: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        self.tokenizer.special_id("mask")

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        found = super().__call__(sample, rng, progress)
        return {name: [self.masked(ids, rng) for ids in texts] for name, texts in found.items()}

    def masked(self, ids: Sequence[int], rng: np.random.Generator) -> Masked:
        """The ids of a text, special ones included, with some masked."""
        begin = len(self.tokenizer.before)
        after = () if self.ends else self.tokenizer.after
        own = np.array(ids[begin : len(ids) - len(after)], np.int64)
        chosen = rng.random(len(own)) < self.rate
        if self.whole_word and len(own):
            word = np.cumsum(self.tokenizer.starts_word(own.tolist())) - 1
            chosen = (rng.random(len(own)) < self.rate)[word]
        if self.min_masked and len(own) and not chosen.any():
            chosen[rng.integers(len(own))] = True
        marks = np.where(chosen, own, -1)
        fate = rng.random(len(own))
        others = rng.choice(self.tokenizer.ordinary, len(own))
        masked = np.where(fate < self.kept + self.random, others, self.tokenizer.special_id("mask"))
        shown = np.where(chosen & (fate >= self.kept), masked, own)
        return Masked(
            [*self.tokenizer.before, *shown.tolist(), *after],
            [*[-1] * begin, *marks.tolist(), *[-1] * len(after)],
        )


@dataclass(frozen=True, kw_only=True)
class SpanView(TextView):
    """A text of `TextView` in which sentinels replace spans, and the spans behind their sentinels:
    texts.NAME (B, C, L) and texts.NAME_target.

    A share `density` of the ids, in spans of `span` ids on average, is replaced by the special
    tokens "extra_id_0", "extra_id_1", …; the target ends with one sentinel more. Of a text with
    more than `length` ids, or than the context holds, a random piece is taken, anywhere in it. Raises
    BadSample("short-text") for a text of fewer than two ids. Source: Raffel et al. 2020 (T5).
    """

    density: float = 0.15
    span: float = 3.0
    length: int = 512

    def __post_init__(self) -> None:
        most = max(1, round(max(1, round(self._most * self.density)) / self.span))
        if f"extra_id_{most}" not in self.tokenizer.special:
            raise InputError(
                f"{most} spans need as many special tokens and one for the end; add them with --tokenizer "
                f"{self.tokenizer.kind}:special=extra_id_0-extra_id_{most}"
            )

    @property
    def gives(self) -> tuple[str, ...]:
        return f"texts.{self.name}", f"texts.{self.name}_target"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        texts = self.drawn(sample, rng, progress)
        pairs = [self._corrupt(self.tokenizer.ids(text), rng) for text in texts]
        inputs, targets = self.gives
        return {inputs: [pair[0] for pair in pairs], targets: [pair[1] for pair in pairs]}

    @property
    def _most(self) -> int:
        """The most ids of a piece."""
        return min(self.length, self.tokenizer.room)

    def _corrupt(self, own: list[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
        tokenizer = self.tokenizer
        if len(own) < 2:
            raise BadSample("short-text", "a text of fewer than two ids has no span to restore")
        if len(own) > self._most:
            start = int(rng.integers(len(own) - self._most + 1))
            own = own[start : start + self._most]
        shown: list[int] = []
        hidden: list[int] = []
        at = 0
        lengths = noise_spans(len(own), self.density, self.span, rng)
        for number, (plain, noise) in enumerate(lengths):
            sentinel = tokenizer.special_id(f"extra_id_{number}")
            shown += [*own[at : at + plain], sentinel]
            hidden += [sentinel, *own[at + plain : at + plain + noise]]
            at += plain + noise
        hidden.append(tokenizer.special_id(f"extra_id_{len(lengths)}"))
        return (
            [*tokenizer.before, *shown, *tokenizer.after],
            [*tokenizer.before, *hidden, *tokenizer.after],
        )


def noise_spans(
    length: int, density: float, span: float, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Return the lengths of alternating plain and noise spans, (plain, noise) in turn, together
    `length` ids.

    A share `density` of the ids, at least one and not all, are noise, in about one span for each
    `span` of them; how ids are dealt to spans is uniform. Source: Raffel et al. 2020.

    >>> found = noise_spans(50, 0.15, 4, np.random.default_rng(0))
    >>> len(found), sum(noise for _, noise in found), sum(map(sum, found))
    (2, 8, 50)
    """
    noise = min(max(round(length * density), 1), length - 1)
    count = min(max(round(noise / span), 1), noise, length - noise)
    return list(zip(_dealt(length - noise, count, rng), _dealt(noise, count, rng), strict=True))


def _dealt(total: int, parts: int, rng: np.random.Generator) -> list[int]:
    """Divide `total` into so many positive parts, all ways alike."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else []
    return np.diff([0, *cuts, total]).tolist()
