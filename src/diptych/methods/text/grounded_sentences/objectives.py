"""The losses of grounded sentences: the hinge over a batch, and what keeps heads apart.

Dimensions: B pairs, E embedding, K heads, P pairs of heads.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["b2", "offdiag", "sum"]
"""What the sum over violations is divided by: B², the B(B - 1) negatives, or nothing."""


def batch_hinge(
    image: Tensor,
    text: Tensor,
    margin: float = 0.2,
    *,
    reduction: Reduction = "b2",
    hardest: bool = False,
) -> Tensor:
    """The hinge loss of vectors (B, E) and (B, E) over all negatives of the batch, in both
    directions.

        S = image textᵀ
        L = 1/B² Σ_{i ≠ j} [ max(0, m + S_ij - S_jj) + max(0, m + S_ij - S_ii) ]

    Inputs are not normalised. With `hardest`, only the worst negative of each text and of each
    image counts (Faghri et al. 2018); the divisor stays.

    >>> one = torch.ones(4, 1)
    >>> float(batch_hinge(one, one))  # 2 m (B - 1) / B
    0.30000...
    """
    scores = image @ text.T
    own = scores.diagonal()
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    of_text = (margin + scores - own[None, :]).clamp(min=0).masked_fill(itself, 0)
    of_image = (margin + scores - own[:, None]).clamp(min=0).masked_fill(itself, 0)
    if hardest:
        of_text = of_text.amax(0)
        of_image = of_image.amax(1)
    B = len(scores)
    divisor = {"b2": B * B, "offdiag": max(1, B * (B - 1)), "sum": 1}[reduction]
    return (of_text.sum() + of_image.sum()) / divisor


def distances(weights: Tensor) -> Tensor:
    """The Frobenius distances (N, P) of the attention weights (N, K, T, C) of each pair of
    heads."""
    pairs = list(combinations(range(weights.shape[1]), 2))
    apart = [weights[:, p] - weights[:, q] for p, q in pairs]
    return torch.stack([torch.linalg.vector_norm(each, dim=(1, 2)) for each in apart], 1)


def diversity(
    matrices: Sequence[Tensor], apart: Tensor, vectors: Tensor, *, first: bool = False
) -> Tensor:
    """What heads lose by being alike, summed over their pairs p, q:

        max(0, 1 - |W_p - W_q|) + mean_n max(0, 1 - |A_np - A_nq|) + max(0, 1 - |E_p - E_q|)

    `matrices` are the W1 of the heads, `apart` the distances (B, P) of their weights and `vectors`
    (B, E) the unit vectors, of which each head has a slice. Norms are Frobenius. With `first` the
    second term is that of the first text of the batch alone.
    """
    slices = vectors.chunk(len(matrices), 1)
    total = vectors.new_zeros(())
    for number, (p, q) in enumerate(combinations(range(len(matrices)), 2)):
        of_weights = (1 - apart[:, number]).clamp(min=0)
        total = total + _alike(matrices[p], matrices[q]) + _alike(slices[p], slices[q])
        total = total + (of_weights[0] if first else of_weights.mean())
    return total


def _alike(a: Tensor, b: Tensor) -> Tensor:
    return (1 - torch.linalg.vector_norm(a - b)).clamp(min=0)
