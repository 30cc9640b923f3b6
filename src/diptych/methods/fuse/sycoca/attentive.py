"""Attentive masking: the patches of an image that a text is about, by similarities of tokens.

    s_p = max_m cos(I_p, T_m)

The shares of the patches with the highest and with the lowest scores are rounded down. Where both
are a half and P is even, what is not among the lowest is what is among the highest. Source: Ma et al.
2024 (SyCoCa).

Dimensions: B images, P patches, M words, E embedding.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.dtypes import at_least_float32


@torch.no_grad()
def attentive_scores(patches: Tensor, words: Tensor, real: Tensor) -> Tensor:
    """The scores s (…, P) of patches (…, P, E) by words (…, M, E), of those alone that are `real`
    (…, M); without a gradient.

    >>> patches = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    >>> words = torch.tensor([[1.0, 0.1], [0.7, 0.7]])
    >>> attentive_scores(patches, words, torch.tensor([True, True]))
    tensor([ 0.9950,  0.9899,  0.7071, -0.7071])
    """
    units = (normalize(at_least_float32(each), dim=-1) for each in (patches, words))
    cosines = torch.matmul(next(units), next(units).mT)
    return cosines.masked_fill(~real[..., None, :], -math.inf).amax(-1)


def highest(scores: Tensor, share: float) -> Tensor:
    """Which patches are among the `share` with the highest scores (B, P): (B, P) bool.

    >>> highest(torch.tensor([[0.9, 0.1, 0.5]]), 0.5)
    tensor([[ True, False, False]])
    """
    return _first(_order(scores), share)


def lowest(scores: Tensor, share: float) -> Tensor:
    """Which patches are among the `share` with the lowest scores (B, P): (B, P) bool.

    >>> lowest(torch.tensor([[0.9, 0.1, 0.5]]), 0.5)
    tensor([[False,  True, False]])
    """
    return _first(_order(scores).flip(-1), share)


def patches_of(share: float, count: int) -> int:
    """The number of patches that a share of `count` is, rounded down.

    >>> patches_of(0.5, 9), patches_of(0.29, 100)
    (4, 29)
    """
    return math.floor(share * count + 1e-9)  # .29 · 100 is 28.999999999999996


def _order(scores: Tensor) -> Tensor:
    """Patches from the highest score to the lowest; equal ones in their own order, so that the
    first and the last of them are never the same."""
    return scores.argsort(dim=-1, descending=True, stable=True)


def _first(order: Tensor, share: float) -> Tensor:
    """Which patches are among the first ones of an order (…, P)."""
    chosen = order[..., : patches_of(share, order.shape[-1])]
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, chosen, True)
