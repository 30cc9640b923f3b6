"""Which region of an image has which attribute of its text: a model that learns it from pairs of images
and texts, its loss, and the regions that it chooses.

Dimensions: B images, R regions, A attributes, C attributes of a batch, E embedding.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mapper(nn.Module):
    """Cosines of regions and attributes.

        cos_ja = < unit( (1 - m) h_a(r_j) + m r_j ), e_a >,      h(r) = W2 relu(W1 r + b1) + b2

    There are as many heads h as `heads`: one for each attribute, or one for all. `residual` is m.
    """

    def __init__(self, heads: int, width: int, residual: float = 0.0):
        super().__init__()
        self.residual = residual
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(heads)
        )

    def forward(self, regions: Tensor, vectors: Tensor, chosen: Tensor) -> Tensor:
        """Cosines (B, R, C) of regions (B, R, E) and those of the attributes (A, E) whose numbers are
        `chosen` (C,). No other heads are used, nor get a gradient."""
        flat = regions.flatten(0, 1)
        if len(self.heads) == 1:
            heads: Sequence[Any] = [self.heads[0]]
        else:
            heads = [self.heads[at] for at in chosen.tolist()]
        # one product for all heads: (C, B R, E)
        hidden = _linear(flat.expand(len(heads), -1, -1), [head[0] for head in heads]).relu()
        mapped = _linear(hidden, [head[2] for head in heads])
        mapped = F.normalize((1 - self.residual) * mapped + self.residual * flat, dim=-1)
        cosines = torch.einsum("cne,ce->nc", mapped.expand(len(chosen), -1, -1), vectors[chosen])
        return cosines.unflatten(0, regions.shape[:2])


def _linear(x: Tensor, layers: Sequence[Any]) -> Tensor:
    """x (C, N, E) through as many layers (C, N, E)."""
    weight = torch.stack([layer.weight for layer in layers])
    bias = torch.stack([layer.bias for layer in layers])
    return torch.baddbmm(bias[:, None], x, weight.mT)


def image_scores(cosines: Tensor, there: Tensor, tau: float) -> Tensor:
    """The similarity (B, C) of images and attributes, that of the image's best region.

        S_ia = max_j cos_ija / tau

    `there` (B, R) are the regions that are real, one an image at least.

    >>> image_scores(torch.tensor([[[0.1], [0.4], [0.9]]]), torch.tensor([[True, True, False]]), 0.5)
    tensor([[0.8000]])
    """
    return cosines.masked_fill(~there[..., None], -torch.inf).max(1).values / tau


def column_nce(scores: Tensor, positive: Tensor, *, legacy_offset: bool = False) -> Tensor:
    """The contrast of images for each attribute: an image that has it, among those that do not.

        L = -1/|P| Σ_{(i,a) in P} log [ exp(S_ia) / ( exp(S_ia) + Σ_{k: (k,a) not in P} exp(S_ka) ) ]

    scores (B, C), positive (B, C) bool, P its true pairs. Positives do not compete; an attribute of all
    images gives 0. With `legacy_offset` each positive adds exp(0) = 1 to the sum of its column, as in
    the published code.

    >>> S = torch.tensor([[2.0, 0.0], [1.0, 3.0], [-1.0, 0.5]])
    >>> y = torch.tensor([[1, 0], [0, 1], [0, 1]]).bool()
    >>> column_nce(S, y), column_nce(S, y, legacy_offset=True)
    (tensor(0.2906), tensor(0.5387))
    """
    if legacy_offset:
        others = scores.masked_fill(positive, 0.0)
        counted = positive
    else:
        # the gradient of a sum over nothing is NaN, so columns without a negative are left out
        counted = positive & ~positive.all(0)
        others = scores.masked_fill(counted, -torch.inf)
    losses = F.softplus(others.logsumexp(0) - scores)
    return losses.masked_fill(~counted, 0.0).sum() / positive.sum().clamp(min=1)


def assigned(cosines: Tensor, there: Tensor, present: Tensor, eps: float) -> Tensor:
    """Which regions have which attributes (B, R, C) bool: of an attribute that the image has by its text
    (`present`, (B, C)), those whose cosine (B, R, C) is less than `eps` below the best.

        cos_ija > max_j cos_ija - eps

    >>> cosines = torch.tensor([[[0.52], [0.41], [0.30]]])
    >>> assigned(cosines, torch.ones(1, 3).bool(), torch.ones(1, 1).bool(), 0.2)[0, :, 0]
    tensor([ True,  True, False])
    """
    real = cosines.masked_fill(~there[..., None], -torch.inf)
    near = real > real.amax(1, keepdim=True) - eps
    return near & there[..., None] & present[:, None]
