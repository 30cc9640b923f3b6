"""Captions by their length: short ones are contrasted with images, long ones are predicted from them.

Dimensions: B samples, L text length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.batch import Tokens
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A caption of fewer than `short` tokens is contrasted, one of `long` to `longest` predicted; others are
    left out. Special ids are not counted."""

    short: int = 30
    long: int = 30
    longest: int = 500


@dataclass(frozen=True, kw_only=True)
class LengthView:
    """A short and a long caption of a sample: texts.short and texts.long (B, 1, L), with special ids.

    They are drawn from the texts of some roles, in training at random, else they are the first ones; with
    a star, as in "long*", all texts of a role are one, in order, joined by spaces. A
    sample without a caption of one kind has a row of special ids alone in its place (`there`). `rooms`
    are the most own ids of a row of each kind; a long caption that is cut has no end.

    Raises BadSample("no-caption") for a sample without a text, and BadSample("caption-length") for one
    whose texts are of neither kind.
    """

    tokenizer: Tokenizer
    roles: tuple[str, ...]
    lengths: Lengths
    rooms: tuple[int, int]
    gives = ("texts.short", "texts.long")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(f"texts.{role.removesuffix('*')}" for role in self.roles)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        texts = [text for role in self.roles for text in _texts(sample, role)]
        if not texts:
            raise BadSample("no-caption", f"no text of role {' or '.join(self.roles)}")
        limits = self.lengths
        rows = [self.tokenizer.ids(text) for text in texts]
        kinds = (
            [row for row in rows if len(row) < limits.short],
            [row for row in rows if limits.long <= len(row) <= limits.longest],
        )
        if not any(kinds):
            raise BadSample(
                "caption-length",
                f"captions of {', '.join(str(len(row)) for row in rows)} tokens are neither below {limits.short} nor "
                f"from {limits.long} to {limits.longest}",
            )
        words = self.tokenizer
        short, long = (self._drawn(found, rng, progress) for found in kinds)
        ends = words.after if len(long) <= self.rooms[1] else ()
        return {
            "texts.short": [[*words.before, *short[: self.rooms[0]], *words.after]],
            "texts.long": [[*words.before, *long[: self.rooms[1]], *ends]],
        }

    def _drawn(
        self, found: Sequence[list[int]], rng: np.random.Generator, progress: float | None
    ) -> list[int]:
        """One of the captions, none of none."""
        if not found:
            return []
        return found[0 if progress is None else int(rng.integers(len(found)))]


def _texts(sample: Sample, role: str) -> list[str]:
    """The texts of a role that have words; with a star all of them as one."""
    found = [text for text in sample.captions(role.removesuffix("*")) if text.strip()]
    return [" ".join(found)] if role.endswith("*") and found else found


def there(tokens: Tokens, words: Tokenizer) -> Tensor:
    """Which rows (B,) of `LengthView` have a caption."""
    return tokens.lengths.flatten() > len(words.before) + len(words.after)
