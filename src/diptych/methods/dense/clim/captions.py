"""Regions of mosaics against captions, for a detector: a region may have several captions.

    l_rj = 25 <unit r, unit c_j> + b,    y_rj = 1 if the image of caption j is in region r
    L    = mean_r Σ_j w_rj BCE(l_rj, y_rj),    w_rj = 1 / (positives of r) where y_rj = 1, else 1/8

Dimensions: N regions, M captions, S sides of a mosaic's grid, s² tiles, E embedding.
"""

from collections.abc import Sequence
from hashlib import sha256

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = 25.0
BIAS = -20.0
"""The initial bias."""
NEGATIVE = 0.125
"""The weight of a caption that is not in a region."""


def caption_bce(
    regions: Tensor, captions: Tensor, wanted: Tensor, bias: Tensor | float = BIAS
) -> Tensor:
    """The loss (N,) of each region (N, E) against captions (M, E), of which `wanted` (N, M) are in it.

    >>> regions = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> round(float(caption_bce(regions, torch.eye(2), torch.eye(2, dtype=torch.bool)).mean()), 6)
    0.350351
    """
    logits = SCALE * F.normalize(regions, dim=-1) @ F.normalize(captions, dim=-1).T + bias
    target = wanted.to(logits)
    positive = target / target.sum(1, keepdim=True).clamp(min=1)
    weight = torch.where(wanted, positive, NEGATIVE)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (weight * losses).sum(1)


def rectangles(side: int) -> tuple[Tensor, Tensor]:
    """All rectangles of two tiles or more of a mosaic: their boxes (K, 4), as shares of it, and which of
    its tiles (K, s²) they have.

    >>> boxes, members = rectangles(2)
    >>> len(boxes), members.sum(1).tolist()
    (5, [2, 2, 4, 2, 2])
    """
    spans = [(start, stop) for start in range(side) for stop in range(start + 1, side + 1)]
    boxes = []
    members = []
    for top, bottom in spans:
        for left, right in spans:
            held = torch.zeros(side, side, dtype=torch.bool)
            held[top:bottom, left:right] = True
            if held.sum() > 1:
                boxes.append([left / side, top / side, right / side, bottom / side])
                members.append(held.flatten())
    return torch.tensor(boxes), torch.stack(members)


def composites(side: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """At most `count` different rectangles of a mosaic, drawn by a seed; see `rectangles`."""
    boxes, members = rectangles(side)
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(seed))[:count]
    return boxes[order], members[order]


def numbers_of(keys: Sequence[str]) -> Tensor:
    """A number (B,) for each sample by its key, the same in all processes."""
    digests = (sha256(key.encode()).digest()[:8] for key in keys)
    return torch.tensor([int.from_bytes(each, "big") >> 1 for each in digests])
