"""Views of a text: versions of it that differ by words, by ids or by what is to be hidden, and spans.

Dimensions: B samples, A anchors, P positives of each, L ids, D width of the tower.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from diptych.data.eda import changed, synonyms
from diptych.data.sample import BadSample, Sample
from diptych.data.views import TextView
from diptych.data.views.masked import Masked, MaskedTextView, noise_spans
from diptych.errors import InputError

Change = Literal["none", "deletion", "substitution", "reordering"]
"""Changes of words (Wu et al. 2020)."""
Cut = Literal["none", "shuffle", "token_cutoff", "feature_cutoff", "dropout"]
"""Changes of the embeddings of tokens (Yan et al. 2021)."""

SPAN = 3  # words of a deleted or moved span, on average


@dataclass(frozen=True, kw_only=True)
class ChangedTextView(TextView):
    """A text of `TextView` twice, as ids (B, 2, L), each with a change of its words, also outside
    training.

    - "deletion" leaves out a share `share` of the words, in spans of about three.
    - "substitution" replaces that share of the words by synonyms of the table `table`.
    - "reordering" moves spans of that share of the words to other places of the text.
    """

    changes: tuple[Change, Change]
    share: float = 0.3
    table: str = "common"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        (text,) = self.drawn(sample, rng, progress)
        versions = [self._changed(text, change, rng) for change in self.changes]
        return {f"texts.{self.name}": self.tokenizer.encode(versions)}

    def _changed(self, text: str, change: Change, rng: np.random.Generator) -> str:
        words = text.split()
        match change:
            case "substitution":
                return changed(text, "synonym", rng, synonyms(self.table), share=self.share)
            case "deletion" if len(words) > 1:
                return " ".join(without_spans(words, self.share, rng))
            case "reordering" if len(words) > 1:
                return " ".join(with_moved_spans(words, self.share, rng))
        return text


def without_spans(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """The words without a share of them, one at least and not all, in spans.

    >>> without_spans("a b c d e f g h".split(), 0.5, np.random.default_rng(0))
    ['a', 'b', 'g', 'h']
    """
    inside = _spans(len(words), share, rng)
    return [word for word, hit in zip(words, inside, strict=True) if not hit]


def with_moved_spans(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """The words, of which spans of a share of them are moved to random places.

    >>> with_moved_spans("a b c d e f g h".split(), 0.3, np.random.default_rng(1))
    ['a', 'd', 'e', 'b', 'c', 'f', 'g', 'h']
    """
    inside = _spans(len(words), share, rng)
    kept = [[word] for word, hit in zip(words, inside, strict=True) if not hit]
    starts = np.flatnonzero(inside & ~np.append(False, inside[:-1]))
    for start in starts.tolist():
        length = int(np.append(~inside[start:], True).argmax())
        kept.insert(int(rng.integers(len(kept) + 1)), words[start : start + length])
    return [word for span in kept for word in span]


def _spans(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which of `count` places are inside of spans, (count,) bool; every place is as likely."""
    lengths = noise_spans(count, share, SPAN, rng)
    inside = np.concatenate([np.repeat([False, True], pair) for pair in lengths])
    return np.roll(inside, int(rng.integers(count)))


@dataclass(frozen=True, kw_only=True)
class HiddenSpanView(TextView):
    """A text twice, as ids (B, 2, L): as it is, and with one span of `span` ids replaced by the special
    token "mask" (Liu et al. 2021)."""

    span: int = 2

    def __post_init__(self) -> None:
        self.tokenizer.special_id("mask")

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        ((name, (ids,)),) = super().__call__(sample, rng, progress).items()
        before = len(self.tokenizer.before)
        count = len(ids) - before - len(self.tokenizer.after)
        span = min(self.span, count)
        start = before + int(rng.integers(count - span + 1))
        hidden = [*ids[:start], self.tokenizer.special_id("mask"), *ids[start + span :]]
        return {name: [ids, hidden]}


@dataclass(frozen=True, kw_only=True)
class CutView(TextView):
    """A text twice, as ids (B, 2, L), and what of the two is cut: tokens, as marks (B, 2, L), and
    features, fields.features (B, 2, D), True where they are.

    `cuts` are the changes of the two versions. "shuffle" permutes the ids between the special ones,
    which is the same as another order of their positions. Of n tokens and D features the shares
    `tokens` and `features` are cut, rounded down, one at least.
    """

    cuts: tuple[Cut, Cut]
    width: int
    tokens: float = 0.15
    features: float = 0.2

    def __post_init__(self) -> None:
        for cut in self.cuts:
            if cut not in get_args(Cut):
                raise InputError(f"{cut!r} is no cut; choose from {', '.join(get_args(Cut))}")

    @property
    def gives(self) -> tuple[str, ...]:
        return f"texts.{self.name}", "fields.features"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        ((name, (ids,)),) = super().__call__(sample, rng, progress).items()
        versions = [self._cut(ids, cut, rng) for cut in self.cuts]
        features = torch.zeros(2, self.width, dtype=torch.bool)
        for row, cut in enumerate(self.cuts):
            if cut == "feature_cutoff":
                features[row, torch.from_numpy(_chosen(self.width, self.features, rng))] = True
        return {name: versions, "fields.features": features}

    def _cut(self, ids: list[int], cut: Cut, rng: np.random.Generator) -> Masked:
        before = len(self.tokenizer.before)
        own = np.array(ids[before : len(ids) - len(self.tokenizer.after)], np.int64)
        marks = np.full(len(own), -1)
        if cut == "shuffle":
            own = rng.permutation(own)
        if cut == "token_cutoff" and len(own):
            rows = _chosen(len(own), self.tokens, rng)
            marks[rows] = own[rows]
        return Masked(
            [*self.tokenizer.before, *own.tolist(), *self.tokenizer.after],
            [*[-1] * before, *marks.tolist(), *[-1] * len(self.tokenizer.after)],
        )


def _chosen(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """A share of `count` places, rounded down, one at least."""
    return rng.choice(count, max(1, int(share * count)), replace=False)


@dataclass(frozen=True, kw_only=True)
class DocumentSpansView(TextView):
    """Anchor spans texts.anchors (B, A, L) of a text and positive spans near them, texts.positives
    (B, A · P, L), those of an anchor in a row.

    Lengths are between `min_length` and `max_length` ids: of anchors by Beta(4, 2), so mostly long, of positives
    by Beta(2, 4). Where both ends fit into the text, a positive begins at any place at which it
    overlaps its anchor or touches it. A text shorter than `max_length` bounds all lengths. Raises
    BadSample("short-text") for a text of fewer than two ids. `masked` hides words of the anchors, as
    texts of its name (B, A, L). Source: Giorgi et al. 2021.
    """

    anchors: int = 2
    positives: int = 2
    min_length: int = 32
    max_length: int = 512
    masked: MaskedTextView | None = None

    @property
    def gives(self) -> tuple[str, ...]:
        found = ("texts.anchors", "texts.positives")
        return found if self.masked is None else (*found, f"texts.{self.masked.name}")

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        (text,) = self.drawn(sample, rng, progress)
        ids = self.tokenizer.ids(text)
        if len(ids) < 2:
            raise BadSample("short-text", "a text of fewer than two ids has no spans")
        anchors = []
        positives = []
        for _ in range(self.anchors):
            start, stop = self._anchor(len(ids), rng)
            anchors.append(self._with_ends(ids[start:stop]))
            for _ in range(self.positives):
                first, last = self._positive(len(ids), start, stop, rng)
                positives.append(self._with_ends(ids[first:last]))
        found: dict[str, Any] = {"texts.anchors": anchors, "texts.positives": positives}
        if self.masked is not None:
            name = f"texts.{self.masked.name}"
            found[name] = [self.masked.masked(span, rng) for span in anchors]
        return found

    def _with_ends(self, ids: list[int]) -> list[int]:
        return [*self.tokenizer.before, *ids, *self.tokenizer.after]

    def _length(self, count: int, a: float, b: float, rng: np.random.Generator) -> int:
        most = min(self.max_length, self.tokenizer.room, count)
        least = min(self.min_length, most)
        return max(1, int(rng.beta(a, b) * (most - least) + least))

    def _anchor(self, count: int, rng: np.random.Generator) -> tuple[int, int]:
        length = self._length(count, 4, 2, rng)
        start = int(rng.integers(count - length + 1))
        return start, start + length

    def _positive(
        self, count: int, start: int, stop: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        length = self._length(count, 2, 4, rng)
        earliest = max(0, start - length)
        latest = min(stop, count - length)
        first = int(rng.integers(earliest, latest + 1))
        return first, first + length
