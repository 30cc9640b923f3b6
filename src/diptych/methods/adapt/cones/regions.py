"""Losses of regions against words: the alignment of detection as grounding (GLIP, Li et al. 2022),
of boxes and of centrality (FCOS).

    S = O E^T,    L = focal(S, T) / positives + mean over positives ( c (1 - GIoU) ) / mean c + mean BCE(centre, c)

T (N, L) is 1 where region n belongs to the concept of row l; c is how central a region is in its
box.

Dimensions: B images, N regions, L rows of all concepts.
"""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss


def target_matrix(classes: Tensor, owner: Tensor) -> Tensor:
    """Return T (…, N, L) of regions (…, N), concept numbers or -1, and rows (L,), the concept of
    each row.

    >>> import torch
    >>> target_matrix(torch.tensor([0, -1]), torch.tensor([0, 0, 1])).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return (classes[..., None] == owner).float()


def word_regions(
    logits: Tensor, classes: Tensor, owner: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Return the sigmoid focal loss of S (B, N, L) against the target matrix, divided by the number
    of regions that contain an object (at least 1)."""
    targets = target_matrix(classes, owner).to(logits.dtype)
    total = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma, reduction="sum")
    return total / (classes >= 0).sum().clamp(min=1)


def box_terms(
    boxes: Tensor, centre: Tensor, wanted: Tensor, held: Tensor, central: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the losses of boxes (B, N, 4) against `wanted` boxes and of the centrality logits (B,
    N).

    Both are over the regions marked in `held` (B, N), and 0 if there are none. Boxes are weighted
    by the centrality of their regions, `central` (B, N).
    """
    if not bool(held.any()):
        return 0.0 * boxes.sum(), 0.0 * centre.sum()
    weight = central[held]
    giou = generalized_box_iou_loss(boxes[held], wanted[held])
    return (weight * giou).sum() / weight.sum(), binary_cross_entropy_with_logits(
        centre[held], weight
    )
