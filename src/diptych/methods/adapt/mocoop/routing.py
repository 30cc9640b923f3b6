"""Losses of prompts in groups: the target groups of each image, and texts that stay near their
group's prototypes.

    target_b = softmax(q_b + bump · [g among the k largest q_b]),    q_bg = <x_b, p_g of b's class>
    L_gate = mean_b CE(softmax(r_b), target_b)
    L_text = mean_gc CE(<t_gc, p_gc'> over c', target c)

p are the unit vectors of each class in the templates of each group, which are not trained. Half
precision is computed in float32. Source: the published code of MoCoOp.

Dimensions: B images, G groups, C classes, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.objectives.core import pair_losses


def gate_target(similarities: Tensor, k: int = 2, bump: float = 10.0) -> Tensor:
    """Return the target probabilities (B, G) of the groups for a router, from similarities (B, G),
    without gradient.

    With a large `bump` the k nearest share nearly all of it; with 0 a softmax of cosines is nearly
    uniform.

    >>> gate_target(torch.tensor([[0.30, 0.20, 0.28, 0.10]]))
    tensor([[5.0498e-01, 2.0744e-05, 4.9498e-01, 1.8770e-05]])
    """
    q = at_least_float32(similarities.detach())
    nearest = torch.zeros_like(q).scatter(1, q.topk(k, dim=1).indices, bump)
    return (q + nearest).softmax(1)


def gate_loss(scores: Tensor, similarities: Tensor, k: int = 2, bump: float = 10.0) -> Tensor:
    """Cross-entropy of a router's scores r (B, G) with `gate_target`, mean over the batch.

    The minimum is the target's entropy. Raises InputError for shapes that differ.

    >>> q, r = torch.tensor([[0.30, 0.20, 0.28, 0.10]]), torch.tensor([[0.2, 1.0, -0.5, 0.6]])
    >>> round(gate_loss(r, q).item(), 6)
    1.9978
    """
    if scores.shape != similarities.shape:
        raise InputError(
            f"scores {tuple(scores.shape)} and similarities {tuple(similarities.shape)} must be (B, G)"
        )
    return F.cross_entropy(at_least_float32(scores), gate_target(similarities, k, bump))


def grouped_texts(texts: Tensor, prototypes: Tensor, temperature: float | None = None) -> Tensor:
    """Return the cross-entropy of each text t (G, C, D) against the prototypes (G, C, D) of its
    group: the mean of G · C rows.

    Without `temperature` the cosines are the logits, as published: the minimum is above 0, and is
    not reached at t = p. Raises InputError for shapes that differ.

    >>> p = torch.eye(4).expand(2, 4, 4)
    >>> round(grouped_texts(p, p).item(), 6), round(grouped_texts(p, p, 0.01).item(), 6)  # log(e + 3) - 1
    (0.743668, 0.0)
    """
    if texts.shape != prototypes.shape or texts.dim() != 3:
        raise InputError(
            f"texts {tuple(texts.shape)} and prototypes {tuple(prototypes.shape)} must be (G, C, D)"
        )
    scale = 1.0 if temperature is None else 1 / temperature
    groups = zip(texts, prototypes, strict=True)
    return torch.stack([pair_losses(own, hard, scale).mean() for own, hard in groups]).mean()
