"""A pyramid of maps from the one map of an image tower, and what a detector reads from it.

Dimensions: B images, C channels of the pyramid, D tower width, h x w positions, R boxes of an image, K
boxes of all images, S pooled positions a side, E embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.towers.encoded import Encoded
from diptych.towers.image.conv import ChannelNorm

LEVELS = 4
"""The number of maps."""
POOLED = 7
"""Positions a side to which a box is pooled."""
_CELLS = 14
"""The side of a box, in positions of the last map but one, that is pooled from this map (Lin et al., 2017:
224 pixels at a stride of 16)."""


def map_of(encoded: Encoded) -> Tensor:
    """The map (B, D, h, w) of an encoded image. Raises InputError for a tower without positions."""
    if encoded.grid is None:
        raise InputError(
            "this image tower pools its positions away, and a detector reads them; choose vit or conv"
        )
    return encoded.patches.mT.unflatten(2, encoded.grid)


class SimplePyramid(nn.Module):
    """One map (B, D, h, w) as four maps of `width` channels, of 4, 2, 1 and 1/2 times its sides.

    Transposed convolutions raise it, a max-pooling lowers it; each is followed by a 1 x 1 and a 3 x 3
    convolution with a norm. Source: Li et al. 2022 (ViTDet).

    >>> maps = SimplePyramid(8, 4)(torch.zeros(1, 8, 4, 4))
    >>> [tuple(each.shape[1:]) for each in maps]
    [(4, 16, 16), (4, 8, 8), (4, 4, 4), (4, 2, 2)]
    """

    def __init__(self, width: int, out: int):
        super().__init__()
        if width % 4:
            raise InputError(
                f"the image tower is {width} wide, and the pyramid halves that twice; choose a multiple of 4"
            )
        half = width // 2
        quarter = width // 4

        def raised(a: int, b: int) -> nn.Module:
            return nn.ConvTranspose2d(a, b, 2, 2)

        self.resized = nn.ModuleList(
            [
                nn.Sequential(
                    raised(width, half), ChannelNorm(half), nn.GELU(), raised(half, quarter)
                ),
                raised(width, half),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, out, 1, bias=False),
                ChannelNorm(out),
                nn.Conv2d(out, out, 3, padding=1, bias=False),
                ChannelNorm(out),
            )
            for channels in (quarter, half, width, width)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        parts = zip(self.resized, self.outputs, strict=True)
        return [output(resized(x)) for resized, output in parts]


class BoxHead(nn.Module):
    """Pooled boxes (K, C, S, S) as vectors (K, E), not normalised, by two layers with norms.

    `hidden` gives what is before the last layer, from which a detector refines the box too.
    """

    def __init__(self, channels: int, width: int, embed_dim: int):
        super().__init__()

        def layer(a: int) -> nn.Module:
            return nn.Sequential(nn.Linear(a, width), nn.LayerNorm(width), nn.ReLU())

        self.layers = nn.Sequential(layer(channels * POOLED**2), layer(width))
        self.project = nn.Linear(width, embed_dim)

    def hidden(self, pooled: Tensor) -> Tensor:
        return self.layers(pooled.flatten(1))

    def forward(self, pooled: Tensor) -> Tensor:
        return self.project(self.hidden(pooled))


def pool_level(maps: Tensor, boxes: Tensor, image: Tensor, size: int = POOLED) -> Tensor:
    """Pool boxes (K, 4), shares of their image, from maps (B, C, h, w): (K, C, S, S), by RoIAlign
    with 2 x 2 samples. `image` (K,) is the number of each box's image."""
    maps = at_least_float32(maps)
    h, w = maps.shape[-2:]
    corners = boxes.to(maps) * boxes.new_tensor([w, h, w, h]).to(maps)
    rows = torch.cat([image[:, None].to(maps), corners], dim=1)
    return roi_align(maps, rows, size, sampling_ratio=2, aligned=True)


def pool_levels(maps: Sequence[Tensor], boxes: Tensor, image: Tensor, size: int = POOLED) -> Tensor:
    """Pool each box (K, 4) from the map that its size is for: (K, C, S, S). Each of the maps is half as
    fine as the one before."""
    own = maps[max(0, len(maps) - 2)]
    level = levels_of(boxes, (own.shape[-2], own.shape[-1]), len(maps))
    found = at_least_float32(maps[0]).new_zeros(len(boxes), maps[0].shape[1], size, size)
    for at, each in enumerate(maps):
        here = (level == at).nonzero()[:, 0]
        if len(here):
            found = found.index_copy(0, here, pool_level(each, boxes[here], image[here], size))
    return found


def levels_of(boxes: Tensor, grid: tuple[int, int], levels: int = LEVELS) -> Tensor:
    """The index of the map (K,) from which boxes (K, 4), shares of the image, are pooled: a box of 14
    positions a side from the last but one, which has this `grid`, and one map finer for half the side.

    >>> levels_of(torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.3, 0.3]]), (14, 14)).tolist()
    [2, 0]
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0) * boxes.new_tensor([grid[1], grid[0]])
    scale = sides.prod(1).sqrt().clamp(min=1e-6) / _CELLS
    own = max(0, levels - 2)
    return (own + scale.log2() + 1e-6).floor().clamp(0, levels - 1).long()
