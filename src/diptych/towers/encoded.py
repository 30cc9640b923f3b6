"""What every tower returns.

Dimensions: B samples, N tokens, D tower width, h x w patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diptych.errors import InputError

Edit = Callable[[int, Tensor], Tensor]
"""`edit(layer, tokens) -> tokens`, called with the input tokens (B, N, D) of block `layer` (0, 1,
…)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tower's output: tokens of its width after the final norm, and the vector pooled from
    them."""

    tokens: Tensor  # (B, N, D)
    pooled: Tensor  # (B, D), or (B, K, D) where a tower pools K vectors (several CLS tokens)
    prefix: int = 0  # tokens before the first patch or word: CLS and registers
    mask: Tensor | None = None  # (B, N) bool, True where a token is real; None: all are
    grid: tuple[int, int] | None = None  # (h, w) of the patches
    levels: Sequence[
        Tensor
    ] = ()  # feature maps (B, C, h, w), fine to coarse, of towers that have them
    queries: Tensor | None = (
        None  # (B, M, ·) of learned queries that read the tokens, for a decoder
    )

    raw: Tensor | None = None  # the tokens before the final norm, of towers that have one

    @property
    def memory(self) -> Tensor:
        """What a decoder reads: the queries, or without them the tokens after the prefix."""
        return self.tokens[:, self.prefix :] if self.queries is None else self.queries

    @property
    def memory_mask(self) -> Tensor | None:
        """(B, M) bool, True where `memory` is real; None: all is."""
        if self.queries is not None or self.mask is None:
            return None
        return self.mask[:, self.prefix :]

    def keeping(self, kept: Tensor) -> "Encoded":
        """The same with a mask in which of the tokens after the prefix only those are real that are
        `kept` (B, P) bool."""
        mask = torch.cat([kept.new_ones(len(kept), self.prefix), kept], dim=1)
        return replace(self, mask=mask if self.mask is None else mask & self.mask)

    @property
    def patches(self) -> Tensor:
        """(B, h * w, D): the tokens on the grid."""
        assert self.grid is not None, "this tower has no grid"
        return self.tokens[:, self.prefix : self.prefix + self.grid[0] * self.grid[1]]

    def of_level(self, level: int) -> "Encoded":
        """The positions of one of the `levels` in place of the tokens.

        Raises InputError for a level that there is not.
        """
        if not -len(self.levels) <= level < len(self.levels):
            raise InputError(
                f"this image tower has no feature map {level}, but {len(self.levels)} of them; choose another level, "
                "or leave it out"
            )
        found = self.levels[level]
        return Encoded(
            found.flatten(2).mT,
            self.pooled,
            grid=(found.shape[2], found.shape[3]),
            levels=self.levels,
        )
