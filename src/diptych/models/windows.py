"""Segmentation of whole images by windows that slide over them.

Dimensions: C classes, H x W pixels of an image, S side of a window, n windows.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.images import on_ground
from diptych.data.sample import EncodedImage

LONGEST = 4
"""The most sides of a window that the long side of an image is scaled to."""


def by_windows(
    image: EncodedImage,
    scores: Callable[[Tensor], Tensor],
    classes: int,
    *,
    side: int,
    step: int,
    ground: tuple[int, int, int],
    batch_size: int,
) -> Tensor:
    """The class of each pixel of an image (H, W), int64, by the mean of the scores of the windows that
    it is in.

    The image is scaled to a short side of S = `side` pixels, and a long side of 4 S at most. Windows of
    S x S pixels, `step` apart at most, cover it. `scores` are those of windows (n, 3, S, S), uint8, with
    C `classes` (n, C, S, S), on the CPU. `ground` is the colour behind transparency. Raises BadSample
    as the image does.
    """
    shown = on_ground(image.decode(), ground)
    width, height = shown.size
    scale = min(side / min(shown.size), LONGEST * side / max(shown.size))
    small = shown.resize((max(1, round(width * scale)), max(1, round(height * scale))))
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)
    rows, columns = pixels.shape[-2:]
    # an image of extreme proportions is narrower than a window
    padded = F.pad(pixels, (0, max(0, side - columns), 0, max(0, side - rows)))
    places = [
        (y, x)
        for y in starts(padded.shape[1], side, step)
        for x in starts(padded.shape[2], side, step)
    ]
    total = torch.zeros(classes, *padded.shape[1:])
    count = torch.zeros(padded.shape[1:])
    for batch in _batches(places, batch_size):
        windows = torch.stack([padded[:, y : y + side, x : x + side] for y, x in batch])
        for (y, x), own in zip(batch, scores(windows), strict=True):
            total[:, y : y + side, x : x + side] += own
            count[y : y + side, x : x + side] += 1
    mean = (total / count)[None, :, :rows, :columns]
    whole = F.interpolate(mean, (height, width), mode="bilinear", align_corners=False)
    return whole[0].argmax(0)


def starts(length: int, side: int, step: int) -> list[int]:
    """Where windows of a side begin along a length, `step` apart at most; the last ends with it.

    >>> starts(640, 512, 341), starts(512, 512, 341), starts(1200, 512, 341)
    ([0, 128], [0], [0, 341, 682, 688])
    """
    count = -(-max(0, length - side) // step) + 1
    return [min(at * step, length - side) for at in range(count)]


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
