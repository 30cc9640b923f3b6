"""An image with its boxes, which move together.

Dimensions: B samples, h x w cells, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from diptych.data.boxes import on_grid, shares
from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Sample
from diptych.errors import InputError


@dataclass(frozen=True, kw_only=True)
class BoxView:
    """The whole main image (B, 1, 3, H, W), and the targets of its boxes for each cell of a grid
    (B, h · w, 6), as returned by `data.boxes.on_grid`.

    `names` are the classes in order; boxes of other classes count as background. `classes` are the
    names of the box labels in the data, () if boxes have texts. With `flip`, half of the images are
    mirrored in training.
    """

    preprocess: Preprocess
    grid: tuple[int, int]
    names: Sequence[str]
    classes: Sequence[str] = ()
    flip: bool = False

    def __post_init__(self) -> None:
        if self.preprocess.resize != "squash":
            raise InputError("boxes are laid on whole images; give a preprocess with resize=squash")

    @property
    def reads(self) -> tuple[str, ...]:
        return "images.main", "boxes"

    @property
    def gives(self) -> tuple[str, ...]:
        return "images.main", "fields.regions"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        encoded = sample.images.get("main")
        if encoded is None:
            raise BadSample("no-image", "no image of role 'main'")
        image = encoded.decode()  # at full size, since boxes are in its pixels
        boxes, held = shares(sample, image.size, self.classes)
        if self.flip and progress is not None and rng.uniform() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        number = {name: at for at, name in enumerate(self.names)}
        known = [name in number for name in held]
        numbers = np.array([number[name] for name in held if name in number], np.int64)
        regions = on_grid(boxes[np.array(known, bool)], numbers, self.grid)
        pixels = self.preprocess(image, exact=False)
        return {"images.main": pixels[None], "fields.regions": torch.from_numpy(regions)}
