"""Tags: the names that the captions of a tile mention, and the region of it that they name.

    l_c = 50 <unit r, t_c> + b,    y_c = 1 if a caption of the tile's image mentions c
    L_r = Σ_c BCE(l_c, y_c)

r is the region of the largest of the tile's proposals: of the 128 with the highest scores in the mosaic those
of which more than half lies in the tile, cut to it; the tile itself where there is none.

Dimensions: B mosaics, K proposals, S tiles, C names, E embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.matcher import Matcher
from diptych.data.sample import Sample

SCALE = 50.0
BEST = 128
INSIDE = 0.5


@dataclass(frozen=True, kw_only=True)
class TagView:
    """Which names (C,) the texts of a role mention."""

    matcher: Matcher
    role: str = "caption"
    gives: tuple[str, ...] = ("fields.tags",)

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"texts.{self.role}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        said = {name for text in sample.captions(self.role) for name in self.matcher.find(text)}
        return {"fields.tags": torch.tensor([name in said for name in self.matcher.names])}


def tagged_regions(proposals: Sequence[Tensor], tiles: Tensor) -> Tensor:
    """The regions (B, S, 4) of the tiles (S, 4) of mosaics, whose proposals (K, 4) come by falling score.

    >>> tiles = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    >>> proposals = torch.tensor([[0.0, 0.0, 0.25, 0.5], [0.25, 0.0, 0.625, 1.0]])
    >>> tagged_regions([proposals], tiles).tolist()
    [[[0.25, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]]
    """
    return torch.stack([_largest(own[:BEST], tiles.to(own)) for own in proposals])


def _largest(proposals: Tensor, tiles: Tensor) -> Tensor:
    """The largest part (S, 4) of a proposal in each tile."""
    low = torch.maximum(proposals[None, :, :2], tiles[:, None, :2])
    high = torch.minimum(proposals[None, :, 2:], tiles[:, None, 2:])
    within = (high - low).clamp(min=0).prod(2)
    whole = (proposals[:, 2:] - proposals[:, :2]).prod(1)
    within = torch.where(within > INSIDE * whole, within, 0)
    if not within.numel():
        return tiles
    area, best = within.max(1)
    rows = torch.arange(len(tiles), device=tiles.device)
    cut = torch.cat([low, high], dim=2)[rows, best]
    return torch.where(area[:, None] > 0, cut, tiles)


def tag_bce(regions: Tensor, names: Tensor, wanted: Tensor, bias: Tensor | float) -> Tensor:
    """The loss (N,) of regions (N, E) against names (C, E), of which `wanted` (N, C) are theirs.

    >>> regions = torch.tensor([[1.0, 0.0]])
    >>> round(float(tag_bce(regions, torch.eye(2), torch.tensor([[True, False]]), -25.0)), 9)
    0.0
    """
    logits = SCALE * F.normalize(regions, dim=-1) @ F.normalize(names, dim=-1).T + bias
    return F.binary_cross_entropy_with_logits(logits, wanted.to(logits), reduction="none").sum(1)
