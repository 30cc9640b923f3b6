"""Mosaics: several images as the tiles of one, and the boxes of the tiles.

Dimensions: g mosaics of s x s tiles, H x W pixels of a tile, T pixels a side of a mosaic.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.errors import InputError


def unit(choices: Sequence[int]) -> int:
    """The number of images that make one mosaic of each of these sizes.

    >>> unit((2, 3, 4))
    29
    """
    return sum(side**2 for side in choices)


def counts(images: int, choices: Sequence[int]) -> tuple[int, int]:
    """The number of mosaics of each size, and the number of images that remain single.

        g = images // unit,      r = images mod unit

    Raises InputError for too few images.

    >>> counts(32, (2, 3, 4)), counts(58, (2, 3, 4))
    ((1, 3), (2, 0))
    """
    whole = unit(choices)
    if images < whole:
        sizes = " and ".join(f"{side} x {side}" for side in choices)
        raise InputError(
            f"{images} images make no mosaics of {sizes} tiles, which take {whole}; give more images "
            "at once, or fewer choices"
        )
    return divmod(images, whole)


def tile_boxes(side: int) -> Tensor:
    """The boxes (s², 4) of the tiles of a mosaic, row by row, as shares of it.

    Edges are i / s, in float64. An equidistant grid in float32 makes the last row and column of
    3 x 3 tiles wider by a rounding error, and RoIAlign then samples the tiles before them too.

    >>> tile_boxes(2).tolist()[1]
    [0.5, 0.0, 1.0, 0.5]
    """
    edges = torch.arange(side + 1, dtype=torch.float64) / side
    top, left = torch.meshgrid(edges[:-1], edges[:-1], indexing="ij")
    bottom, right = torch.meshgrid(edges[1:], edges[1:], indexing="ij")
    return torch.stack([left, top, right, bottom], dim=-1).view(-1, 4)


def assemble(tiles: Tensor, side: int, size: int) -> Tensor:
    """Images (g s², 3, H, W) as mosaics (g, 3, T, T) of s x s tiles, row by row, resized to `size`
    pixels a side, bicubically."""
    H, W = tiles.shape[-2:]
    rows = tiles.view(-1, side, side, 3, H, W).permute(0, 3, 1, 4, 2, 5)
    mosaics = rows.reshape(-1, 3, side * H, side * W)
    if mosaics.shape[-2:] == (size, size):
        return mosaics
    return F.interpolate(mosaics, (size, size), mode="bicubic", antialias=True)
