"""The models that DITO's module is for images: regions by the box head, and detection.

Dimensions: N images, R regions of an image, E embedding, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.models.detection import DetectorModel
from diptych.models.model import Model
from diptych.towers.dual import DualEncoder

HEAD = "head"
"""The route by which the box head embeds regions; it is the default."""


class ByHead:
    """`embed_regions` of given boxes by the box head, or by a `route` of the image tower."""

    delivered: Any

    def _regions_of(
        self, encoder: DualEncoder, x: Tensor, boxes: Sequence[Tensor], route: str | None
    ) -> list[Tensor]:
        if route not in (None, HEAD):
            return super()._regions_of(encoder, x, boxes, route)  # type: ignore[misc]  # of `Model`
        padded = torch.nn.utils.rnn.pad_sequence(list(boxes), batch_first=True).to(x.device)
        found = self.delivered.region_vectors(x, padded).float()
        return [row[: len(own)] for row, own in zip(found, boxes, strict=True)]


class RegionsModel(ByHead, Model):
    """A dual encoder whose regions are embedded by the box head."""

    def __init__(self, delivered: Any, preprocess: Preprocess, *, name: str):
        super().__init__(
            delivered.encoder, delivered.tokenizer, preprocess, name=name, delivered=delivered
        )


class TwoStageDetector(ByHead, DetectorModel):
    """A model that proposes boxes and names them by any classes."""

    def __init__(self, delivered: Any, preprocess: Preprocess, *, name: str):
        super().__init__(delivered, preprocess, name=name)
        self.trained_classes = delivered.trained
        self.detections = delivered.config.boxes.detections
