"""What a student learns from a teacher's embeddings of the same batch.

Matrices of B x B are kept whole: rows of teacher and student are compared as distributions. Half precision is computed
in float32. Features are taken as they are, never normalised.

Dimensions: B pairs, D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.errors import InputError
from diptych.objectives.core import wide


def off_diagonal(
    image: Tensor,
    text: Tensor,
    old_image: Tensor,
    old_text: Tensor,
    *,
    screen: bool = True,
    include_diagonal: bool = True,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Keep the shape of an older model's matrix of cosines, where it was right (Mod-X).

        M = X Y^T, M' of the older model;   L = ½ [ Σ_i KL(softmax M'_i || softmax M_i) + the same of M^T, M'^T ]

    image, text (B, D) and the older model's (B, D'), unit vectors; the softmax is at temperature 1. With `screen` a row
    counts where the older model finds its partner: argmax_j M'_ij = i, for each direction by itself.
    `include_diagonal=False` leaves the partner out of both distributions. "sum" over rows is as published, so that L
    grows with B; "mean" divides it by B. No gradient reaches the older model. Raises InputError for shapes that differ.

    Source: Ni et al. 2023 (Mod-X).

    >>> x = torch.eye(4)
    >>> round(off_diagonal(x, x.roll(1, 0), x, x).item(), 6)  # 4 (e - 1) / (e + 3)
    1.201957
    """
    if reduction not in ("sum", "mean"):
        raise InputError(f"reduction is {reduction!r}; choose 'sum' or 'mean'")
    if not (image.shape == text.shape and old_image.shape == old_text.shape and len(image) == len(old_image)):
        raise InputError(f"pairs {tuple(image.shape)}, {tuple(text.shape)} and the older model's "
                         f"{tuple(old_image.shape)}, {tuple(old_text.shape)} are not of one batch")  # fmt: skip
    with torch.autocast(image.device.type, enabled=False):
        new, old = _cosines(image, text), _cosines(old_image, old_text).detach()
        total = (_rows(new, old, screen, include_diagonal) + _rows(new.T, old.T, screen, include_diagonal)) / 2
    return total if reduction == "sum" else total / len(image)


def _cosines(image: Tensor, text: Tensor) -> Tensor:
    return wide(image) @ wide(text).T


def _rows(new: Tensor, old: Tensor, screen: bool, include_diagonal: bool) -> Tensor:
    """Σ_i KL(softmax old_i || softmax new_i) over the rows that the older model got right, or over all."""
    rows = torch.arange(len(old), device=old.device)
    right = old.argmax(1) == rows if screen else torch.ones_like(rows, dtype=torch.bool)
    if not include_diagonal:
        own = torch.eye(len(old), dtype=torch.bool, device=old.device)
        new, old = new.masked_fill(own, -1e4), old.masked_fill(own, -1e4)
    divergence = F.kl_div(F.log_softmax(new, 1), F.log_softmax(old, 1), reduction="none", log_target=True)
    return (divergence * right[:, None]).sum()
