"""Losses of the positions of two feature maps, whose crops of an image tell which of them are near.

    A_pq   = [ |c_p - c'_q| < ratio · max(d, d') ]         c centres of cells, d diagonals of cells
    l      = Σ_pq A_pq cos(y_p, z_q) / (Σ_pq A_pq + 1e-6)                               consistency
    l_p    = -log( Σ_q A_pq exp(cos(y_p, z_q) / tau) / Σ_q exp(cos(y_p, z_q) / tau) )     contrast

Dimensions: B images, h x w positions, P = h · w, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.dtypes import at_least_float32

_LEAST = 1e-6
"""In the denominator of the consistency, as published."""


def positives(one: Tensor, other: Tensor, grid: tuple[int, int], ratio: float) -> Tensor:
    """Which positions of two crops are near each other in the image: (B, P, P) bool.

    Crops (B, 4) are x0, y0, x1, y1 as shares of the image, with x0 > x1 if mirrored
    (`data.views.ImageView`). Distances are between centres of cells, and relative to the larger of
    the two diagonals.

    >>> whole = torch.tensor([[0.0, 0, 1, 1]])
    >>> mirrored = torch.tensor([[1.0, 0, 0, 1]])
    >>> positives(whole, mirrored, (1, 2), 0.4).tolist()
    [[[False, True], [True, False]]]
    """
    height, width = grid
    columns, rows = (
        _distances(one[:, axis::2], other[:, axis::2], count)
        for axis, count in ((0, width), (1, height))
    )
    square = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    diagonal = torch.maximum(_diagonal(one, grid), _diagonal(other, grid))
    near = square < (ratio * diagonal).square()[:, None, None, None, None]
    return near.flatten(3).flatten(1, 2)


def _distances(one: Tensor, other: Tensor, count: int) -> Tensor:
    """Squared distances (B, count, count) of the centres of cells along one axis, of the ends (B, 2)
    of two crops."""
    places = (torch.arange(count, device=one.device, dtype=one.dtype) + 0.5) / count
    mine, theirs = (ends[:, :1] + places * (ends[:, 1:] - ends[:, :1]) for ends in (one, other))
    return (mine[:, :, None] - theirs[:, None, :]).square()


def _diagonal(crops: Tensor, grid: tuple[int, int]) -> Tensor:
    """The diagonal (B,) of a cell."""
    return torch.hypot((crops[:, 2] - crops[:, 0]) / grid[1], (crops[:, 3] - crops[:, 1]) / grid[0])


def pixel_consistency(x: Tensor, z: Tensor, positive: Tensor) -> Tensor:
    """-2 times the mean cosine of the positive pairs of positions (B, P, D) and (B, P, D), for each
    image (B,); 0 for an image without any.

    Source: Xie et al. 2021 (PixPro).
    """
    with torch.autocast(x.device.type, enabled=False):
        x = normalize(at_least_float32(x), dim=-1)
        weights = positive.to(x.dtype)
        # the sum over q first: no matrix of cosines is stored
        total = (x * (weights @ normalize(at_least_float32(z), dim=-1))).sum((1, 2))
        return -2 * total / (weights.sum((1, 2)) + _LEAST)


def pixel_contrast(x: Tensor, z: Tensor, positive: Tensor, tau: float) -> Tensor:
    """The contrastive loss of positions (B, P, D) against all positions (B, P, D) of the other view
    of the same image, the mean over those with a positive, for each image (B,); 0 for an image
    without any.

    Source: Xie et al. 2021 (PixContrast).
    """
    with torch.autocast(x.device.type, enabled=False):
        z = normalize(at_least_float32(z), dim=-1)
        logits = normalize(at_least_float32(x), dim=-1) @ z.mT / tau
        alive = positive.any(2)
        # all pairs of a position without a positive, so that its loss is 0 and not infinite
        numerator = logits.masked_fill(~(positive | ~alive[..., None]), -torch.inf).logsumexp(2)
        losses = logits.logsumexp(2) - numerator
        return losses.sum(1) / alive.sum(1).clamp(min=1)
