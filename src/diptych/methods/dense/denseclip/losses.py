"""The losses of DenseCLIP's maps, as a sum and a number for each image.

    L_b = Σ_p CE(logits_bp, y_bp),    n_b = number of the pixels p that have a class

The loss of a batch is Σ L_b / Σ n_b, whichever ranks its images are on.

Dimensions: B images, K classes, h x w positions, H x W pixels.
"""

import torch.nn.functional as F
from torch import Tensor

from diptych.data.images import VOID
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


def pixel_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """The number (B,) of pixels whose highest logit is that of their class."""
    found = to_pixels(logits.detach(), labels.shape[-2:]).argmax(1)
    return (found == labels).flatten(1).sum(1)
