"""Heat of positions as a map of the image that was read: smoothed on the grid, enlarged, and put
where the model saw it.

Dimensions: h x w positions, H x W pixels of the image.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.errors import InputError

Interpolation = Literal["nearest", "bilinear"]
_REACH = 4.0
"""The standard deviations after which a Gaussian is cut off."""


def smoothed(heat: Tensor, sigma: float) -> Tensor:
    """Maps (…, h, w) under a Gaussian filter of `sigma` positions; 0 leaves them as they are.

    Beyond an edge the map is reflected, edge position included: b a | a b c | c b.

    >>> impulse = torch.zeros(15, 15, dtype=torch.float64)
    >>> impulse[7, 7] = 1
    >>> round(float(smoothed(impulse, 1.5)[7, 7]), 6)
    0.070737
    """
    if sigma < 0:
        raise InputError(f"sigma is {sigma}; it is a number of positions, 0 or more")
    if sigma == 0:
        return heat
    down, across = (_blur(length, sigma).to(heat) for length in heat.shape[-2:])
    return down @ heat @ across.mT


def _blur(length: int, sigma: float) -> Tensor:
    """The matrix (length, length) that filters a side."""
    radius = int(_REACH * sigma + 0.5)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    matrix = torch.zeros(length, length, dtype=torch.float64)
    for at in range(length):
        for offset, weight in enumerate(weights, -radius):
            place = (at + offset) % (2 * length)
            matrix[at, min(place, 2 * length - 1 - place)] += weight
    return matrix / sum(weights)


def heat_map(
    heat: Tensor,
    preprocess: Preprocess,
    size: tuple[int, int],
    *,
    sigma: float = 1.5,
    interpolation: Interpolation = "nearest",
) -> Tensor:
    """Maps (…, h, w) as maps (…, H, W) of an image of width and height `size`.

    They are smoothed on the grid, then enlarged to the part of the image that was read; pixels
    that the model does not see are NaN.

    Raises InputError for an image that is padded with bars.

    >>> heat_map(torch.ones(2, 2), Preprocess(size=32), (4, 2), sigma=0)
    tensor([[nan, 1., 1., nan],
            [nan, 1., 1., nan]])
    """
    if preprocess.ratio is not None:
        raise InputError(
            "an image with bars has no map of its own; give a preprocess without ratio"
        )
    width, height = size
    across, down = _sides(preprocess, width, height)
    grids = smoothed(heat, sigma).reshape(1, -1, *heat.shape[-2:])
    corners = None if interpolation == "nearest" else False
    enlarged = F.interpolate(grids, (down, across), mode=interpolation, align_corners=corners)[0]
    left, right = _margins(width, across)
    top, bottom = _margins(height, down)
    # negative margins cut off what lies in the padding around the image
    found = F.pad(enlarged, (left, right, top, bottom), value=math.nan)
    return found.reshape(*heat.shape[:-2], height, width)


def _sides(preprocess: Preprocess, width: int, height: int) -> tuple[int, int]:
    """The sides, in pixels of the image, of what the model reads."""
    across = preprocess.width
    down = preprocess.height
    if preprocess.resize == "longest":
        if width * down >= height * across:  # the width decides
            return width, down * width // across
        return across * height // down, height
    high, wide = preprocess.edges
    if preprocess.resize == "squash":
        return across * width // wide, down * height // high
    if wide * height >= high * width:
        return across * width // wide, down * width // wide
    return across * height // high, down * height // high


def _margins(length: int, side: int) -> tuple[int, int]:
    """How much of a length lies before and behind a centred side; negative for a longer side."""
    rest = length - side
    before = rest // 2 if rest >= 0 else -(-rest // 2)
    return before, rest - before
