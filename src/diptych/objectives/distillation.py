"""Distillation from a teacher's embeddings of the same batch.

Rows of the teacher's and the student's B x B matrices are compared as distributions; the matrices
are stored whole. Half precision is computed in float32. Features are not normalised.

Dimensions: B pairs, D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.objectives.contrastive import info_nce


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
    """Keep the off-diagonal cosines of an older model, in the rows that it got right (Mod-X).

        M = X Y^T, M' of the older model;   L = ½ [ Σ_i KL(softmax M'_i || softmax M_i) + the same of M^T, M'^T ]

    image, text (B, D) and the older model's (B, D'), unit vectors; the softmax is at temperature 1.
    With `screen`, a row counts only if the older model finds its partner (argmax_j M'_ij = i), for
    each direction separately. `include_diagonal=False` leaves the partner out of both
    distributions. The `reduction` "sum" over rows is as published, so that L grows with B; "mean"
    divides it by B. No gradient reaches the older model. Raises InputError for shapes that differ.

    Source: Ni et al. 2023 (Mod-X).

    >>> x = torch.eye(4)
    >>> round(off_diagonal(x, x.roll(1, 0), x, x).item(), 6)  # 4 (e - 1) / (e + 3)
    1.201957
    """
    if reduction not in ("sum", "mean"):
        raise InputError(f"reduction is {reduction!r}; choose 'sum' or 'mean'")
    _check(image, text, old_image, old_text, "older model")
    with torch.autocast(image.device.type, enabled=False):
        new = _cosines(image, text)
        old = _cosines(old_image, old_text).detach()
        total = (
            _rows(new, old, screen, include_diagonal)
            + _rows(new.T, old.T, screen, include_diagonal)
        ) / 2
    return total if reduction == "sum" else total / len(image)


def distilled(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    teacher_image: Tensor,
    teacher_text: Tensor,
    teacher_scale: Tensor | float,
    *,
    tile: int | None = None,
) -> Tensor:
    """Match the teacher's probabilities of each image's texts and of each text's images.

        L = ½ [ mean_i CE(softmax S'_i, S_i) + the same of S^T, S'^T ],   S = scale · X Y^T, S' the teacher's

    image, text (B, D) and the teacher's (B, D') are unit vectors; student and teacher each have a
    scale. The loss is `info_nce` with the teacher's probabilities as targets. Its gradient is that
    of the KL divergence; its minimum is the entropy of the targets, not 0. No gradient reaches the
    teacher. `tile` is that of `info_nce`, for the student's matrix; the teacher's is stored whole.
    A bias common to all logits, as SigLIP's, would change nothing. Raises InputError for shapes
    that differ.

    Source: open_clip's distillation. Temperatures are as in Hinton et al. 2015, but one per model.

    >>> x = torch.eye(4)
    >>> uniform = distilled(x, x, 1.0, x, x, 0.0)  # a teacher that tells nothing: log(e + 3) - 1/4
    >>> round(uniform.item(), 6)
    1.493668
    """
    _check(image, text, teacher_image, teacher_text, "teacher")
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        logits = teacher_scale * _cosines(teacher_image, teacher_text)
        targets = logits.softmax(1), logits.T.softmax(1)
    return info_nce(image, text, scale, targets=targets, tile=tile)


def _check(image: Tensor, text: Tensor, other_image: Tensor, other_text: Tensor, who: str) -> None:
    if not (
        image.shape == text.shape
        and other_image.shape == other_text.shape
        and len(image) == len(other_image)
    ):
        raise InputError(
            f"pairs {tuple(image.shape)}, {tuple(text.shape)} and the {who}'s "
            f"{tuple(other_image.shape)}, {tuple(other_text.shape)} are not of one batch"
        )


def _cosines(image: Tensor, text: Tensor) -> Tensor:
    return at_least_float32(image) @ at_least_float32(text).T


def _rows(new: Tensor, old: Tensor, screen: bool, include_diagonal: bool) -> Tensor:
    """Σ_i KL(softmax old_i || softmax new_i) over the rows that the older model got right, or all
    rows."""
    rows = torch.arange(len(old), device=old.device)
    right = old.argmax(1) == rows if screen else torch.ones_like(rows, dtype=torch.bool)
    if not include_diagonal:
        own = torch.eye(len(old), dtype=torch.bool, device=old.device)
        new = new.masked_fill(own, -1e4)
        old = old.masked_fill(own, -1e4)
    divergence = F.kl_div(
        F.log_softmax(new, 1), F.log_softmax(old, 1), reduction="none", log_target=True
    )
    return (divergence * right[:, None]).sum()
