"""The weights of pairs, and the loss that they weigh.

Dimensions: B sentences, h negatives of each, E embedding.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.objectives.core import pair_losses


def pair_weights(
    kept: Tensor, hard: Tensor, inverse: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weights (B, B) of anchors with positives, and (B, h) of anchors with their own
    negatives.

    `kept` (B, B) are the pairs that pass the guard, `hard` (B, h) the negatives that exist; all others
    have weight 0. Without `inverse` those have 1; with inverse propensities (B, B + h) these, divided
    by their mean over the pairs of an anchor that count. An anchor's own positive has 1 and does not
    count.

    >>> kept = torch.tensor([[True, True], [False, True]])
    >>> pair_weights(kept, torch.tensor([[True], [True]]), torch.tensor([[9.0, 1, 3], [9, 9, 4]]))
    (tensor([[1.0000, 0.5000],
            [0.0000, 1.0000]], dtype=torch.float64), tensor([[1.5000],
            [1.0000]], dtype=torch.float64))
    """
    own = torch.eye(len(kept), dtype=torch.bool, device=kept.device)
    counted = torch.cat([kept & ~own, hard], 1)
    weights = counted.double()
    if inverse is not None:
        weights = weights * inverse
        mean = weights.sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1)
        weights = weights / torch.where(mean > 0, mean, 1)
    return weights[:, : len(kept)] + own, weights[:, len(kept) :]


def weighted_info_nce(views: Tensor, scale: float, weights: Tensor, hard: Tensor) -> Tensor:
    """InfoNCE of anchors, views (B, 2 + h, E), with weighted negatives.

        L = mean_i -log [ e_i,i+ / ( e_i,i+ + Σ_{j≠i} w_ij e_i,j+ + Σ_h w_ih e_i,n_ih ) ],   e = exp(scale · cos)

    The second view is the positive, the others are the anchor's negatives; `weights` (B, B), whose
    diagonal is 1, and `hard` (B, h) are those of `pair_weights`. A weight w is the same as ln w added
    to the logit.
    """
    anchor, positive, *negatives = normalize(views, dim=-1).unbind(1)
    count = len(anchor)
    allowed = [weights, *(torch.diag(hard[:, number]) for number in range(len(negatives)))]
    columns = torch.cat([positive, *negatives])
    dtype = torch.promote_types(anchor.dtype, torch.float32)
    targets = torch.arange(count, device=anchor.device)
    return pair_losses(
        anchor, columns, scale, targets=targets, allowed=torch.cat(allowed, 1).to(dtype)
    ).mean()
