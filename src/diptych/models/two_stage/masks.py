"""The mask branch of a detector (Mask R-CNN, He et al., 2017): the object in each box, as a small mask.

    L = Σ_k  mean over pixels  BCE( mask_k, target_k )        k: boxes of objects

The target is the object's mask, cut out by the box. Layers and predictor are
torchvision's.

Dimensions: B images, K boxes of all images, C channels or classes, N masks of an image, S x S cells of a
predicted mask, M x M of the data's, H x W pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

from diptych.dtypes import at_least_float32
from diptych.models.two_stage.pyramid import pool_levels

POOLED = 14
"""Positions a side to which a box is pooled."""
SIDE = 2 * POOLED
"""Cells a side of a predicted mask."""
MASK_SIDE = 112
"""The most cells a side of the data's masks, each in its box."""
LEAST = 0.5
"""The probability from which a pixel belongs to the object."""
_AT_ONCE = 16  # masks of the size of the image, in float32


class MaskBranch(nn.Module):
    """Boxes (K, 4) of maps as logits of masks (K, C, S, S), one for each of the classes; one mask for
    all of them without `classes`.

    >>> branch = MaskBranch(8, 8)
    >>> maps = [torch.zeros(2, 8, side, side) for side in (16, 8, 4, 2)]
    >>> branch(maps, torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([1])).shape
    torch.Size([1, 1, 28, 28])
    """

    def __init__(self, channels: int, width: int, classes: int | None = None):
        super().__init__()
        self.by_class = classes is not None
        self.layers = MaskRCNNHeads(channels, (width,) * 4, dilation=1)
        self.predict = MaskRCNNPredictor(width, width, classes or 1)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        pooled = pool_levels(maps, boxes, image, POOLED)
        return at_least_float32(self.predict(self.layers(pooled)))

    def of_classes(
        self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor, classes: Tensor
    ) -> Tensor:
        """The logits (K, S, S) of the masks of boxes, which are of the `classes` (K,)."""
        logits = self(maps, boxes, image)
        rows = torch.arange(len(boxes), device=boxes.device)
        return logits[rows, classes] if self.by_class else logits[:, 0]


def mask_targets(masks: Tensor, truth: Tensor, boxes: Tensor, side: int = SIDE) -> Tensor:
    """The masks (K, S, S) of objects in boxes (K, 4): the share of each cell, by RoIAlign.

    `masks` (K, M, M) are those in the boxes `truth` (K, 4) of the objects, 0 to 255 or bool; outside of
    these there is no object.

    >>> own = torch.tensor([[0.0, 0.0, 0.5, 1.0]])
    >>> mask_targets(torch.full((1, 8, 8), 255), own, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 2).tolist()
    [[[1.0, 0.0], [1.0, 0.0]]]
    """
    planes = masks.to(torch.float32) / (1 if masks.dtype == torch.bool else 255)
    size = masks.shape[-1]
    sides = (truth[:, 2:] - truth[:, :2]).clamp(min=1e-9).repeat(1, 2)
    # a border of zeros, since RoIAlign repeats the last cell beyond the edge
    inside = (boxes - truth[:, :2].repeat(1, 2)) / sides * size + 1
    rows = torch.arange(len(boxes), device=boxes.device)[:, None]
    rois = torch.cat([rows.to(planes), inside.to(planes)], dim=1)
    bordered = F.pad(planes[:, None], (1, 1, 1, 1))
    return roi_align(bordered, rois, side, sampling_ratio=-1, aligned=True)[:, 0]


def mask_terms(logits: Tensor, targets: Tensor, image: Tensor, images: int) -> dict[str, Tensor]:
    """The losses of masks (K, S, S), each a mean over its pixels, as sums (B,) over those of each image,
    with their numbers (B,). `image` (K,) are the numbers of their images."""
    losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(images).index_add(0, image, values)

    own = losses.flatten(1).mean(1) if len(losses) else losses.flatten(1).sum(1)
    return {"masks": summed(own), "masks_count": summed(torch.ones_like(own))}


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (N, S, S) of boxes (N, 4), shares of an image of a `size` (W, H), as its pixels (N, H, W)
    bool: bilinearly, at the centres of pixels, and 0 outside of the boxes.

    torchvision's `paste_masks_in_image` rounds boxes to whole pixels, which small objects do not bear.

    >>> pasted(torch.ones(1, 28, 28), torch.tensor([[0.0, 0.0, 0.5, 1.0]]), (4, 2)).int().tolist()
    [[[1, 1, 0, 0], [1, 1, 0, 0]]]
    """
    width, height = size
    side = masks.shape[-1]
    cells = torch.arange(side, device=masks.device)

    def weights(low: Tensor, high: Tensor, pixels: int) -> Tensor:
        """The share (N, pixels, S) that each cell has in each pixel of a row."""
        centres = (torch.arange(pixels, device=masks.device) + 0.5) / pixels
        place = (centres - low[:, None]) / (high - low).clamp(min=1e-9)[:, None] * side - 0.5
        return (1 - (place[..., None] - cells).abs()).clamp(min=0)

    across = weights(boxes[:, 0], boxes[:, 2], width)
    down = weights(boxes[:, 1], boxes[:, 3], height)
    found = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    for at in range(0, len(masks), _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        found[part] = down[part] @ masks[part].float() @ across[part].mT >= LEAST
    return found
