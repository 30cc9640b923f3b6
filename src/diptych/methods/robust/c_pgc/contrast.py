"""The inverted contrast: a loss that is small where samples are far from their own partners and
near to others'.

    P = mean_i Σ_j exp(own_ij / τ),    Q = mean_i Σ_j exp(far_ij / τ),    L = log( P / (P + Q) )

The means are taken before the logarithm: L is one ratio of the batch, not a mean of ratios.
Everything is computed in log space, since P and Q may differ by any factor.

Dimensions: B samples, J partners each, K targets, E embedding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def inverted_contrast(own: Tensor, far: Tensor, temperature: float) -> Tensor:
    """L of similarities (B, J) with a sample's own partners and (B, J') with those of its target,
    at most 0.

    >>> equal = torch.full((2, 5), 0.3)
    >>> float(inverted_contrast(equal, equal, 0.1))  # log 1/2
    -0.6931...
    >>> float(inverted_contrast(equal, equal[:, :1], 0.1))  # log 5/6
    -0.1823...
    """
    return F.logsigmoid(log_mean(own, temperature) - log_mean(far, temperature))


def log_mean(similarities: Tensor, temperature: float) -> Tensor:
    """log of the mean over samples of Σ_j exp(s_ij / τ), of similarities (B, J).

    >>> round(float(log_mean(torch.zeros(3, 4), 0.1).exp()), 4)
    4.0
    """
    rows = similarities / temperature
    return rows.flatten().logsumexp(0) - math.log(len(rows))


def farthest(vectors: Tensor, targets: Tensor) -> Tensor:
    """The target (B,) of each vector (B, E) with the least mean similarity to its J rows, of
    targets (K, J, E).

    >>> farthest(torch.eye(2), torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])).tolist()
    [0, 1]
    """
    return torch.einsum("be,kje->bk", vectors, targets).argmin(1)


def own_similarities(vectors: Tensor, partners: Tensor) -> Tensor:
    """Dot products (B, J) of vectors (B, E) with rows of their own (B, J, E)."""
    return torch.einsum("be,bje->bj", vectors, partners)
