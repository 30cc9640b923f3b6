"""Grounding: where an image is most similar to a sentence, as numbers by position and as an image.

    W_n = (S_n - min S) / (max S - min S),   S_n = <t, p_n>

Dimensions: h x w positions, S side of the pixels that the model reads.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from diptych.data.images import FileImage, Preprocess, barred, on_ground
from diptych.methods.abilities import require
from diptych.models.heat import smoothed

_LEAST = 384  # the side below which an image is enlarged
_COLOURS = np.array(
    [[30, 30, 140], [30, 160, 190], [250, 210, 60], [215, 40, 30]], np.float32
)  # from cold to hot
_OPAQUE = 0.75  # of the hottest position


@dataclass(frozen=True)
class Grounded:
    """The similarity of an image to a sentence by position, or what else `heat` gives: `cosines` (h,
    w), `best` the pixel (x, y) of the image at the centre of the most similar position, `seen` the
    part of the image that the model reads (x0, y0, x1, y1)."""

    sentence: str
    cosines: np.ndarray
    best: tuple[float, float]
    seen: tuple[float, float, float, float]

    @property
    def weights(self) -> np.ndarray:
        """W (h, w): 0 at the least similar position, 1 at the most similar; 1 everywhere if all are
        equal."""
        low = self.cosines.min()
        high = self.cosines.max()
        return (self.cosines - low) / (high - low) if high > low else np.ones_like(self.cosines)


def ground_image(
    model: Any, path: str, sentence: str, *, sigma: float = 0.0
) -> tuple[Grounded, Image.Image]:
    """Return where the image of a file is similar to a sentence, and the part of it that the model
    reads, in grey, with the weights overlaid in colours, red where they are 1. With `sigma` the
    cosines are smoothed (`models.heat`).

    Raises InputError for a model without `heat`, or whose image tower has no positions, and for a
    file that is no image.
    """
    require(model, "heat", "grounding a sentence")
    cosines = smoothed(model.heat(path, sentence, exact=True)[0, 0], sigma).numpy()
    image = FileImage(path).decode()
    seen = part_seen(model.preprocess, image.size)
    row, column = np.unravel_index(int(cosines.argmax()), cosines.shape)
    wide = seen[2] - seen[0]
    high = seen[3] - seen[1]
    x = seen[0] + (column + 0.5) / cosines.shape[1] * wide
    y = seen[1] + (row + 0.5) / cosines.shape[0] * high
    found = Grounded(sentence, cosines, (float(x), float(y)), seen)
    return found, laid_over(shown(model.preprocess, image, seen), found.weights)


def part_seen(preprocess: Preprocess, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the part (x0, y0, x1, y1) of an image of some width and height that the model reads,
    in pixels of the image; it extends beyond the edges if bars are added.

    >>> part_seen(Preprocess(size=10), (40, 20))
    (10.0, 0.0, 30.0, 20.0)
    """
    width, height = size
    # bars on each side
    across = 0
    down = 0
    if preprocess.ratio is not None:
        wide, high = barred(Image.new("1", size), preprocess.ratio).size
        across = (wide - width) // 2
        down = (high - height) // 2
        width = wide
        height = high
    edges: list[float] = []
    for length, scaled, bar, side in zip(
        (width, height),
        preprocess.scaled(width, height),
        (across, down),
        (preprocess.width, preprocess.height),
        strict=True,
    ):
        start = preprocess.first(scaled, side)
        edges += [start * length / scaled - bar, (start + side) * length / scaled - bar]
    return edges[0], edges[2], edges[1], edges[3]


def shown(
    preprocess: Preprocess, image: Image.Image, seen: tuple[float, float, float, float]
) -> Image.Image:
    """Return the part of an image that the model reads, in the shape of the model's images and not
    smaller than before."""
    long = max(preprocess.width, preprocess.height)
    side = max(_LEAST, round(max(seen[2] - seen[0], seen[3] - seen[1])))
    size = (round(side * preprocess.width / long), round(side * preprocess.height / long))
    x0, y0, x1, y1 = map(round, seen)
    return on_ground(image, preprocess.ground).crop((x0, y0, x1, y1)).resize(size)


def laid_over(image: Image.Image, weights: np.ndarray) -> Image.Image:
    """Return an image in grey with weights (h, w) from 0 to 1 overlaid; larger weights are more
    opaque and more red."""
    smooth = F.interpolate(
        torch.from_numpy(weights)[None, None].float(), image.size[::-1], mode="bicubic"
    )[0, 0]
    heat = smooth.clamp(0, 1).numpy()
    place = heat * (len(_COLOURS) - 1)
    low = np.minimum(place.astype(int), len(_COLOURS) - 2)
    colours = _COLOURS[low] + (place - low)[..., None] * (_COLOURS[low + 1] - _COLOURS[low])
    opaque = _OPAQUE * heat[..., None]
    pixels = np.asarray(image.convert("L").convert("RGB"), np.float32)
    return Image.fromarray(np.rint(pixels + opaque * (colours - pixels)).astype(np.uint8))
