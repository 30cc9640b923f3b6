"""Losses of two views without negatives: prediction of the other view, redundancy reduction,
balanced clusters.

    negative_cosine      2 - 2 mean_i cos(p_i, stop(v_i))                         SimSiam, BYOL, SiamLIP, BYOLIP
    redundancy           Σ_d (C_dd - 1)² + λ Σ_{d≠e} C_de²                        Barlow Twins, BarLIP
    sinkhorn             cosines as an assignment with equal use of prototypes   SwAV, SwALIP
    assignment_loss      - mean_i Σ_k Q_ik log softmax(scale · S_i)_k

Matrices of width x width and of batch x prototypes are stored whole. Half precision is computed in
float32. Features are not normalised, except in the cosine.

Dimensions: B samples, D width, K prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.dtypes import at_least_float32
from diptych.errors import InputError


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """2 - 2 · mean cosine of predictions p (B, D) and targets v (B, D), from 0 to 4.

    No gradient reaches the targets.

    Sources: Grill et al. 2020 (BYOL); Chen and He 2021 (SimSiam), whose loss is -cos, that is half
    of this minus 1.

    >>> x = torch.eye(2)
    >>> negative_cosine(x, x).item(), negative_cosine(x, -x).item()
    (0.0, 4.0)
    """
    _check(prediction, target)
    with torch.autocast(prediction.device.type, enabled=False):
        return (
            2
            - 2
            * F.cosine_similarity(
                at_least_float32(prediction), at_least_float32(target).detach(), dim=1
            ).mean()
        )


def redundancy(x: Tensor, y: Tensor, *, off_diagonal: float = 0.005) -> Tensor:
    """The distance of the cross-correlation C = X^T Y / B (D, D) of two views (B, D) from the
    identity.

        L = Σ_d (C_dd - 1)² + off_diagonal · Σ_{d≠e} C_de²

    The views must be standardised already (by a last batch norm). Source: Zbontar et al. 2021
    (Barlow Twins).

    >>> z = torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    >>> redundancy(z, z).item(), redundancy(z, -z).item()
    (0.0, 8.0)
    """
    _check(x, y)
    with torch.autocast(x.device.type, enabled=False):
        correlation = at_least_float32(x).T @ at_least_float32(y) / len(x)
        diagonal = correlation.diagonal()
        others = correlation.square().sum() - diagonal.square().sum()
        return (diagonal - 1).square().sum() + off_diagonal * others


@torch.no_grad()
def sinkhorn(scores: Tensor, *, eps: float = 0.05, iterations: int = 3) -> Tensor:
    """Assignments Q (B, K) from scores (B, K), which use all prototypes nearly equally.

    Rows and columns of exp(scores / eps) are normalised in turn; each sample's assignments sum to
    1. No gradient passes. Source: Caron et al. 2020 (SwAV).

    >>> sinkhorn(torch.zeros(3, 3))[0]
    tensor([0.3333, 0.3333, 0.3333])
    """
    if scores.dim() != 2:
        raise InputError(f"scores of shape {tuple(scores.shape)} cannot be assigned; give (B, K)")
    logs = at_least_float32(scores) / eps  # in logs: exponentials of cosines / 0.05 span 17 decades
    for _ in range(iterations):
        logs = logs - logs.logsumexp(0, keepdim=True)  # each prototype
        logs = logs - logs.logsumexp(1, keepdim=True)  # each sample
    return logs.exp()


def assignment_loss(scores: Tensor, assigned: Tensor, scale: Tensor | float) -> Tensor:
    """Cross-entropy of scores (B, K) · scale with assignments (B, K): -mean_i Σ_k Q_ik log
    softmax(scale · S_i)_k.

    >>> round(assignment_loss(torch.eye(2), torch.eye(2), 1.0).item(), 4)  # log(1 + 1 / e)
    0.3133
    """
    _check(scores, assigned)
    with torch.autocast(scores.device.type, enabled=False):
        return (
            -(assigned.detach() * F.log_softmax(scale * at_least_float32(scores), 1)).sum(1).mean()
        )


def _check(x: Tensor, y: Tensor) -> None:
    if x.dim() != 2 or x.shape != y.shape:
        raise InputError(
            f"{tuple(x.shape)} and {tuple(y.shape)} are no partners; give two of shape (B, D)"
        )
