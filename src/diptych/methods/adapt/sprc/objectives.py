"""Objectives of composed retrieval: a query among targets of several vectors each, hard negatives,
and agreement of prompts.

Dimensions: B queries, C targets, M vectors of a target, E embedding, K prompt vectors, D width.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from diptych.errors import InputError


def token_nce(
    queries: Tensor,
    targets: Tensor,
    scale: Tensor | float,
    *,
    directions: Literal["query", "mean"] = "query",
) -> Tensor:
    """Cross-entropy of each query among targets, each compared by its best-fitting vector.

        S_ij = max_k <f_i, g_jk>,      L = mean_i CE(scale · S_i, i)

    queries (B, E), targets (C, M, E) with C >= B, where target i belongs to query i.
    directions="mean" averages this and the loss of targets among queries, for C = B. All B · C · M
    products are in memory at once: a maximum over vectors cannot be accumulated like a sum. Raises
    InputError for shapes that do not fit.

    Sources: Li et al. 2023 (BLIP-2's contrastive loss, both directions); Bai et al. 2024 (SPRC,
    query to target).

    >>> queries = torch.eye(2)
    >>> targets = torch.tensor([[[1.0, 0.0], [0.5**0.5, 0.5**0.5]], [[0.0, 1.0], [-1.0, 0.0]]])
    >>> round(token_nce(queries, targets, 1.0).item(), 6)
    0.435324
    """
    if (
        queries.dim() != 2
        or targets.dim() != 3
        or queries.shape[1] != targets.shape[2]
        or len(queries) > len(targets)
    ):
        raise InputError(
            f"queries {tuple(queries.shape)} and targets {tuple(targets.shape)} must be (B, E) and "
            "(C, M, E), a target for each query"
        )
    if directions not in ("query", "mean"):
        raise InputError(f"directions is {directions!r}; choose 'query' or 'mean'")
    logits = scale * best_similarity(queries, targets)
    own = torch.arange(len(queries), device=queries.device)
    loss = cross_entropy(logits, own)
    return loss if directions == "query" else (loss + cross_entropy(logits.T, own)) / 2


def best_similarity(queries: Tensor, targets: Tensor) -> Tensor:
    """Return max_k <f_i, g_jk> of queries (B, E) and targets (C, M, E), as (B, C)."""
    return (queries @ targets.flatten(0, 1).T).unflatten(1, targets.shape[:2]).amax(2)


def hard_negatives(logits: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw another column for each row of logits (B, B) with the probabilities of their softmax
    without the diagonal.

        j ~ softmax_{j != i}(logits_ij),      drawn as argmax_{j != i} (logits_ij + Gumbel noise)

    Returns numbers (B,), on the device of the logits. Raises InputError for fewer than two rows.
    Source: Li et al. 2021 (ALBEF).

    >>> logits = torch.tensor([[9.0, 0.0, 50.0], [50.0, 9.0, 0.0], [0.0, 50.0, 9.0]])
    >>> hard_negatives(logits, np.random.default_rng(0))
    tensor([2, 0, 1])
    """
    if len(logits) < 2:
        raise InputError("one pair has no negative; give two or more")
    noise = torch.from_numpy(rng.gumbel(size=tuple(logits.shape))).to(logits)
    drawn = logits.detach() + noise
    return drawn.fill_diagonal_(-torch.inf).argmax(1)


def prompt_alignment(prompts: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared distance of the samples' mean prompts (B, D) to the mean of `wanted`
    (K, D), which gets no gradient.

        L = mean_id ( p_id - mean_k sg(wanted_kd) )²

    Means over the vectors come first, so that single vectors are unconstrained. Source: Bai et al.
    2024 (SPRC).

    >>> prompts = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).mean(0, keepdim=True)
    >>> prompt_alignment(prompts, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    tensor(4.2500)
    """
    return mse_loss(prompts, wanted.detach().mean(0).expand_as(prompts))
