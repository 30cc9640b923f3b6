"""The contrastive loss of pairs of records."""

import torch
from torch import Tensor

from diptych.dtypes import at_least_float32

_LEAST = 1e-12  # of a squared distance, whose root has a finite gradient then


def pairwise(z: Tensor, labels: Tensor, positive: float = 0.0, negative: float = 0.5) -> Tensor:
    """The contrastive loss of all pairs of unit vectors z (B, E) with labels (B,).

        L = mean_{y_i = y_j} [d_ij - p]_+  +  mean_{y_i != y_j} [n - d_ij]_+,   d_ij = |z_i - z_j|

    p and n are the margins `positive` and `negative`. Each mean is over the terms that are not 0.
    Records with a negative label share it with no other. Source: Hadsell et al. 2006, in the form of
    pytorch-metric-learning.

    >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> round(pairwise(z, torch.tensor([0, 0, 1])).item(), 4)  # |z_0 - z_1|; no other is nearer than 0.5
    0.6325
    """
    with torch.autocast(z.device.type, enabled=False):
        z = at_least_float32(z)
        squared = (z[:, None] - z[None]).square().sum(2)
        distance = squared.clamp(min=_LEAST).sqrt()
        others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        same = (labels[:, None] == labels) & (labels >= 0)
        pull = (distance - positive).clamp(min=0) * (same & others)
        push = (negative - distance).clamp(min=0) * (~same & others)
        return _mean_of_positive(pull) + _mean_of_positive(push)


def _mean_of_positive(terms: Tensor) -> Tensor:
    return terms.sum() / (terms > 0).sum().clamp(min=1)
