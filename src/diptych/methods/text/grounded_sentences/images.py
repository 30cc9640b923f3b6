"""Features of a frozen image tower, averaged over ten crops.

Dimensions: B images, D width of the tower.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.errors import InputError
from diptych.towers.build import image, image_tower
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.tower import ImageTower, preprocess_of

SCALED = 256 / 224
"""The side of the image over that of a crop."""


@dataclass(frozen=True, kw_only=True)
class TenCropsConfig:
    """Options of `grounded_sentences.ten_crops`: the `tower` of the crops in plain values, and the
    preprocessing, by default that of the tower, with larger images."""

    tower: Mapping[str, Any]
    preprocess: Mapping[str, Any] | None = None


@image("grounded_sentences.ten_crops")
class TenCrops(ImageTower):
    """The mean of a tower's pooled vectors of ten crops: the corners and the centre, each also
    mirrored.

    Tokens are the ten vectors.

    >>> tower = TenCrops(TenCropsConfig(tower={"name": "conv", "image_size": 28, "widths": (8, 16), "depths": (1, 1)}))
    >>> tower.preprocess.size
    32
    >>> tower(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).tokens.shape
    torch.Size([2, 10, 16])
    """

    Config = TenCropsConfig

    def __init__(self, config: TenCropsConfig):
        inner = image_tower(config.tower)
        if not isinstance(inner.preprocess, Preprocess) or inner.vectors > 1:
            raise InputError(
                "ten crops are of images with one vector each, which this image tower does not have; set crops=1"
            )
        sides = (inner.preprocess.height, inner.preprocess.width)
        scaled = (round(SCALED * sides[0]), round(SCALED * sides[1]))
        larger = replace(inner.preprocess, size=scaled, margin=None).to_dict()
        super().__init__(config, preprocess_of(config.preprocess, **larger))
        self.inner = inner
        self.width = inner.width

    @classmethod
    def of(cls, tower: ImageTower) -> "TenCrops":
        """The crops of a given tower, with its weights."""
        found = cls(TenCropsConfig(tower=tower.spec))
        found.inner = tower
        return found

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> crops (B, 10, 3, h, w)."""
        size = self.inner.preprocess
        return torch.stack(list(_crops(x, size.height, size.width)), 1)

    def blocks(self, crops: Tensor) -> Tensor:
        """Crops (B, 10, 3, h, w) -> their vectors (B, 10, D)."""
        return self.inner(crops.flatten(0, 1)).pooled.unflatten(0, crops.shape[:2])

    def finish(self, vectors: Tensor) -> Encoded:
        """Average."""
        return Encoded(vectors, vectors.mean(1))

    def forward(
        self, x: Tensor, *, edit: Edit | None = None, hidden: Tensor | None = None
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`. Raises InputError for an `edit` or `hidden`
        patches."""
        if edit is not None or hidden is not None:
            raise InputError(
                "crops have no token stream for prompts or hidden patches; set crops=1"
            )
        return self.finish(self.blocks(self.embed(x)))


def _crops(x: Tensor, height: int, width: int) -> Iterator[Tensor]:
    """Ten crops of images (B, 3, H, W)."""
    low = x.shape[-2] - height
    right = x.shape[-1] - width
    middle = (round(low / 2), round(right / 2))
    for top, left in ((0, 0), (0, right), (low, 0), (low, right), middle):
        crop = x[..., top : top + height, left : left + width]
        yield crop
        yield crop.flip(-1)
