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
    """A caption of fewer than `short` tokens is contrasted, one of `long` to `most` predicted; others are
    left out. Special ids are not counted."""

    short: int = 30
    long: int = 30
    most: int = 500


@dataclass(frozen=True, kw_only=True)
class LengthView:
    """A short and a long caption of a sample: texts.short and texts.long (B, 1, L), with special ids.

    They are drawn from the texts of some roles, in training at random, else they are the first ones. A
    sample without a caption of one kind has a row of special ids alone in its place (`there`). `rooms`
    are the most own ids of a row of each kind, longer captions are cut and have no end then.

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
        return tuple(f"texts.{role}" for role in self.roles)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        texts = [text for role in self.roles for text in sample.captions(role) if text.strip()]
        if not texts:
            raise BadSample("no-caption", f"no text of role {' or '.join(self.roles)}")
        limits = self.lengths
        rows = [self.tokenizer.ids(text) for text in texts]
        kinds = (
            [row for row in rows if len(row) < limits.short],
            [row for row in rows if limits.long <= len(row) <= limits.most],
        )
        if not any(kinds):
            raise BadSample(
                "caption-length",
                f"captions of {', '.join(str(len(row)) for row in rows)} tokens are neither below {limits.short} nor "
                f"from {limits.long} to {limits.most}",
            )
        return {
            name: [self._row(found, room, rng, progress)]
            for name, found, room in zip(self.gives, kinds, self.rooms, strict=True)
        }

    def _row(
        self,
        found: Sequence[list[int]],
        room: int,
        rng: np.random.Generator,
        progress: float | None,
    ) -> list[int]:
        """One of the captions with its special ids, without an end where it is cut."""
        words = self.tokenizer
        own: list[int] = []
        if found:
            own = found[0 if progress is None else int(rng.integers(len(found)))]
        after = words.after if len(own) <= room else ()
        return [*words.before, *own[:room], *after]


def there(tokens: Tokens, words: Tokenizer) -> Tensor:
    """Which rows (B,) of `LengthView` have a caption."""
    return tokens.lengths.flatten() > len(words.before) + len(words.after)
