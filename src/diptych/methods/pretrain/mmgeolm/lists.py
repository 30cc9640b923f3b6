"""Losses of lists: one anchor, one right candidate, and K wrong ones of its own.

Dimensions: B samples, n = 1 + K candidates, E embedding.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["softmax", "sigmoid"]


def list_logits(
    anchor: Tensor, candidates: Tensor, scale: Tensor | float, bias: Tensor | float | None = None
) -> Tensor:
    """Return the logits z_j = scale · <anchor, candidate_j> + bias (B, n).

    anchor (B, E) and candidates (B, n, E) are unit vectors.
    """
    logits = scale * torch.einsum("be,bne->bn", anchor, candidates)
    return logits if bias is None else logits + bias


def list_loss(logits: Tensor, there: Tensor | None = None, *, form: Form = "softmax") -> Tensor:
    """Return the mean over B of the losses of lists, of which candidate 0 is the right one.

        softmax    -z_0 + log Σ_j exp z_j
        sigmoid    Σ_j softplus(-y_j z_j),   y_0 = 1, all other y_j = -1

    logits (B, n); `there` (B, n) says which candidates exist, None for all. No term joins two
    samples. The sigmoid form grows with n. Source: the published training scripts.

    >>> list_loss(torch.zeros(1, 10), form="sigmoid")  # 10 ln 2
    tensor(6.9315)
    >>> list_loss(torch.zeros(1, 6))  # ln 6
    tensor(1.7918)
    """
    if form == "softmax":
        shown = logits if there is None else logits.masked_fill(~there, -torch.inf)
        return (shown.logsumexp(1) - logits[:, 0]).mean()
    signs = -torch.ones_like(logits)
    signs[:, 0] = 1
    losses = F.softplus(-signs * logits)
    return (losses if there is None else losses * there).sum(1).mean()
