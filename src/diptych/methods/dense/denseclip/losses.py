"""The losses of DenseCLIP's maps, as a sum and a number for each image.

    L_b = Σ_p CE(logits_bp, y_bp),    n_b = number of the pixels p that have a class

With boxes in place of masks it is the binary cross-entropy of each class inside of them. The loss of a
batch is Σ L_b / Σ n_b, whichever ranks its images are on.

Dimensions: B images, K classes, h x w positions, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.masks import VOID
from diptych.dtypes import at_least_float32


def to_pixels(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps (B, K, h, w) scaled bilinearly to a shape (H, W), in float32 at least."""
    maps = at_least_float32(maps)
    return F.interpolate(maps, shape, mode="bilinear", align_corners=False)


def pixel_ce(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The sum (B,) of the cross-entropies of pixels, and the number (B,) of those that have a class.

    logits (B, K, h, w) are scaled up to the labels (B, H, W), integers of which 255 is no class.

    >>> import torch
    >>> total, count = pixel_ce(torch.zeros(1, 4, 1, 1), torch.tensor([[[2, 255]]]))
    >>> round(float(total), 4), int(count)
    (1.3863, 1)
    """
    scaled = to_pixels(logits, labels.shape[-2:])
    losses = F.cross_entropy(scaled, labels.long(), ignore_index=VOID, reduction="none")
    return losses.flatten(1).sum(1), (labels != VOID).flatten(1).sum(1)


def boxed_bce(
    logits: Tensor, boxes: Tensor, there: Tensor, classes: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """The sum (B,) of the binary cross-entropies of the scores inside of boxes, and the number (B,) of
    these scores.

    logits (B, K, h, w) are scaled up to `side` x `side`. Of each pixel that is in any box, the target of a
    class is 1 if it is in a box of this class. boxes (B, R, 4) are shares of the image, of which
    those are real that are `there` (B, R), with the numbers `classes` (B, R). Corners are cut to whole
    pixels, at most the last one, and the right and lower ones lie outside.

    >>> import torch
    >>> scores = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]], [[-3.0, 0.0], [0.0, 0.0]]]])
    >>> box = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]])
    >>> total, count = boxed_bce(scores, box, torch.tensor([[True]]), torch.tensor([[0]]), 2)
    >>> round(float(total / count), 7)
    0.0877577
    """
    scaled = to_pixels(logits, (side, side))
    corners = (boxes * side).long().clamp(0, side - 1)
    places = torch.arange(side, device=boxes.device)

    def inside(start: Tensor, stop: Tensor) -> Tensor:
        return ((places >= start[..., None]) & (places < stop[..., None])).to(scaled)

    across = inside(corners[..., 0], corners[..., 2])
    down = inside(corners[..., 1], corners[..., 3])
    owner = F.one_hot(classes.clamp(min=0), logits.shape[1]).to(scaled) * there[..., None]
    target = (torch.einsum("brk,bry,brx->bkyx", owner, down, across) > 0).to(scaled)
    mask = target.amax(1, keepdim=True)
    losses = F.binary_cross_entropy_with_logits(scaled, target, reduction="none") * mask
    return losses.flatten(1).sum(1), mask.flatten(1).sum(1) * logits.shape[1]


def pixel_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """The number (B,) of pixels whose highest logit is that of their class."""
    found = to_pixels(logits.detach(), labels.shape[-2:]).argmax(1)
    return (found == labels).flatten(1).sum(1)
