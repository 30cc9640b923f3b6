"""A view of an image with its class mask, which are scaled, cropped and mirrored together.

Dimensions: B samples, H x W pixels, S side of a crop.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from diptych.data.images import Preprocess, on_ground
from diptych.data.masks import VOID
from diptych.data.sample import BadSample, Sample
from diptych.errors import InputError

TRIES = 10
"""How often a crop is drawn until no class fills too much of it."""
LONGEST = 4
"""The most times the crop's side, times the scale, that the long side of an image is scaled to."""


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How training images are augmented.

    The short side of an image is scaled to `scale` times that of the crop, uniformly in this range.
    Of crops, up to ten are drawn until no class has more than `most` of the pixels that have a class.
    `flip` mirrors half of the images. `photometric` varies brightness (by up to 32), contrast and
    saturation (by factors in .5 to 1.5) and hue (by a tenth of a turn), each in half of the images
    (Liu et al. 2016, SSD).
    """

    scale: tuple[float, float] = (0.5, 2.0)
    most: float = 0.75
    flip: bool = True
    photometric: bool = True

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high or not 0 < self.most <= 1:
            raise InputError(
                f"scale {list(self.scale)} or most {self.most} of --method.augment; give two positive numbers in "
                "order, and a share of the pixels"
            )


@dataclass(frozen=True, kw_only=True)
class MaskView:
    """A crop of the main image (B, 1, 3, S, S) and of its class mask, fields.mask (B, S, S) uint8.

    255 in the mask, and numbers beyond the `classes`, are no class; nor is what lies beyond the image,
    whose pixels are the mean colour. Outside training it is the centre of the image, which is scaled
    until its short side has S pixels. Raises BadSample for a mask of other proportions than the image.
    """

    preprocess: Preprocess
    mask: str
    classes: Sequence[str]
    crops: Crops = Crops()

    @property
    def reads(self) -> tuple[str, ...]:
        return "images.main", f"masks.{self.mask}"

    @property
    def gives(self) -> tuple[str, ...]:
        return "images.main", "fields.mask"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        image, mask = self._read(sample, progress)
        side = self.preprocess.side
        scale = 1.0 if progress is None else float(rng.uniform(*self.crops.scale))
        factor = min(scale * side / min(image.size), LONGEST * scale * side / max(image.size))
        size = tuple(max(1, round(length * factor)) for length in image.size)
        box, plane = self._crop(mask, size, side, None if progress is None else rng)
        ground = tuple(round(255 * value) for value in self.preprocess.mean)
        canvas = Image.new("RGB", (side, side), ground)
        part = tuple(
            length / of * whole
            for length, of, whole in zip(box, size * 2, image.size * 2, strict=True)
        )  # type: ignore[operator]
        seen = (box[2] - box[0], box[3] - box[1])
        canvas.paste(image.resize(seen, Image.Resampling.BICUBIC, box=part, reducing_gap=3.0))  # type: ignore[arg-type]
        pixels = np.array(canvas)
        if progress is not None and self.crops.flip and rng.uniform() < 0.5:
            pixels = pixels[:, ::-1]
            plane = plane[:, ::-1]
        if progress is not None and self.crops.photometric:
            pixels = distorted(pixels, rng)
        return {
            "images.main": torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None],
            "fields.mask": torch.from_numpy(np.ascontiguousarray(plane)),
        }

    def _read(self, sample: Sample, progress: float | None) -> tuple[Image.Image, np.ndarray]:
        """The image, decoded at a reduced size where that suffices, and its mask at full size."""
        if "main" not in sample.images:
            raise BadSample("no-image", "no image of role 'main'")
        if self.mask not in sample.masks:
            raise BadSample("no-mask", f"no mask {self.mask!r}")
        largest = 1.0 if progress is None else self.crops.scale[1]
        decoded = sample.images["main"].decode(math.ceil(2 * largest * self.preprocess.side))
        image = on_ground(decoded, self.preprocess.ground)
        mask = np.asarray(sample.masks[self.mask].decode())
        height, width = mask.shape
        # a reduced image has whole pixels
        if abs(image.width * height - image.height * width) > width + height:
            raise BadSample(
                "mask-size",
                f"mask {self.mask!r} is {width} x {height}, its image {image.width} x {image.height}",
            )
        known = mask < len(self.classes)
        return image, np.where(known, mask, VOID).astype(np.uint8)

    def _crop(
        self,
        mask: np.ndarray,
        size: tuple[int, ...],
        side: int,
        rng: np.random.Generator | None,
    ) -> tuple[tuple[int, int, int, int], np.ndarray]:
        """The box of a crop in an image scaled to a `size` (width, height), and the mask (S, S) of
        it; the central one without `rng`."""
        width, height = (min(side, length) for length in size)
        spare = (size[0] - width, size[1] - height)
        for _ in range(TRIES):
            left, top = (
                extra // 2 if rng is None else int(rng.integers(extra + 1)) for extra in spare
            )
            plane = np.full((side, side), VOID, np.uint8)
            rows = _nearest(top, height, size[1], mask.shape[0])
            columns = _nearest(left, width, size[0], mask.shape[1])
            plane[:height, :width] = mask[rows[:, None], columns]
            counts = np.bincount(plane.ravel(), minlength=VOID + 1)[:VOID]
            if rng is None or counts.max() <= self.crops.most * counts.sum():
                break
        return (left, top, left + width, top + height), plane


def _nearest(start: int, count: int, scaled: int, length: int) -> np.ndarray:
    """The places in a length of `count` pixels from `start` of the same length `scaled`."""
    return (
        ((np.arange(start, start + count) + 0.5) * length / scaled).astype(int).clip(0, length - 1)
    )


def distorted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary brightness, contrast, saturation and hue of (H, W, 3) uint8, each with probability 1/2.

    Contrast, a factor of all values, is varied before or after the colours.
    """
    early = rng.uniform() < 0.5
    values = pixels.astype(np.float32)
    if rng.uniform() < 0.5:
        values = values + rng.uniform(-32, 32)
    contrast = rng.uniform(0.5, 1.5) if rng.uniform() < 0.5 else 1.0
    if early:
        values = values.clip(0, 255) * contrast
    saturation = rng.uniform(0.5, 1.5) if rng.uniform() < 0.5 else 1.0
    turn = rng.uniform(-0.1, 0.1) if rng.uniform() < 0.5 else 0.0
    if saturation != 1 or turn:
        shown = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        by_hue = np.array(shown.convert("HSV")).astype(np.float32)
        by_hue[..., 0] = (by_hue[..., 0] + round(256 * turn)) % 256
        by_hue[..., 1] = (by_hue[..., 1] * saturation).clip(0, 255)
        values = np.array(
            Image.fromarray(by_hue.astype(np.uint8), "HSV").convert("RGB"), np.float32
        )
    if not early:
        values = values * contrast
    return values.clip(0, 255).astype(np.uint8)
