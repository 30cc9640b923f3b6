"""DenseCLIP's instance segmentation: Mask R-CNN reads the scores of classes, which are trained inside of
boxes.

    L = L_Mask R-CNN + BCE inside of boxes (s_b / tau)

The first is that of `rcnn`, each of whose parts is a mean over what was chosen in the whole batch; the
last is that of `detection`.

Dimensions: B images, K boxes of all images, R boxes of an image.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.views import RegionView, View
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.dense.denseclip.detection import FINER, Detection
from diptych.methods.dense.denseclip.detector import DenseDetector
from diptych.methods.dense.denseclip.losses import boxed_bce
from diptych.methods.dense.denseclip.rcnn import MaskRCNN
from diptych.methods.families.detection import terms_of_masks
from diptych.models.detection import Regions
from diptych.models.two_stage.masks import MASK_SIDE
from diptych.models.two_stage.proposals import ProposalConfig
from diptych.models.two_stage.sampling import SeedView
from diptych.spec import configure

RPN = {"positive": 0.7, "negative": 0.3}
"""Options of the proposals that differ from those of `ProposalConfig`."""
_TERMS = {
    "objects": "anchors_count",
    "shifts": "anchors_count",
    "names": "boxes_count",
    "moves": "boxes_count",
    "masks": "masks_count",
}


class InstanceDetector(DenseDetector):
    """A dual encoder that finds the classes that it was trained on, with their masks."""

    skipped = 0
    finds_masks = True
    reads = ("images.main", "boxes", "boxes.mask")  # type: ignore[assignment]

    def __init__(self, *args: Any, hidden: int, proposals: ProposalConfig):
        super().__init__(*args)
        self.hidden = hidden
        self.proposals = proposals

    def build_head(self, widths: Sequence[int]) -> nn.Module:
        return MaskRCNN(
            widths,
            width=self.config.width,
            hidden=self.hidden,
            classes=len(self.classes),
            proposals=self.proposals,
        )

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps of the head's pyramid, of images (B, 3, H, W)."""
        return self.read(x)[0]

    def read(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of the head's pyramid, and the score maps (B, K, h, w), of images (B, 3, H, W)."""
        maps, scores = self.scored_maps(x)
        head: Any = self.head
        return head.levels(maps), scores

    def regions(self, x: Tensor, maps: Sequence[Tensor] | None = None) -> Regions:
        """The proposals of images (B, 3, H, W), with the probabilities of the classes; `maps` are those
        of `maps`, if computed already."""
        head: Any = self.head
        return head.regions(self.maps(x) if maps is None else maps)

    def masks(
        self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor, classes: Tensor
    ) -> Tensor:
        """The masks (K, S, S), as probabilities, of boxes (K, 4) of these classes (K,)."""
        head: Any = self.head
        return head.mask_head.of_classes(maps[:-1], boxes, image, classes).sigmoid()


class Instances(Detection):
    """An instance segmentor on a dual encoder, whose text tower is frozen."""

    Model = InstanceDetector
    model: InstanceDetector

    def options(self) -> dict[str, Any]:
        given = {**RPN, **self.config.proposals}
        return {
            "hidden": self.config.hidden,
            "proposals": configure(ProposalConfig, given, "proposals"),
        }

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return SeedView(), *super().views(stage, stream)

    def region_view(self, **options: Any) -> RegionView:
        return super().region_view(masks=min(MASK_SIDE, self.model.side), **options)

    def encode(self, batch: Batch, at: At) -> Features:
        boxes = batch.fields["regions"]
        there = batch.fields["regions.there"]
        classes = batch.fields["regions.classes"]
        levels, scores = self.model.read(batch.image.flat)
        head: Any = self.model.head
        truth = [rows[held] for rows, held in zip(boxes, there, strict=True)]
        numbers = [rows[held] for rows, held in zip(classes, there, strict=True)]
        found, given = head.losses(levels, truth, numbers, batch.fields["seed"])
        count = len(self.model.classes)
        masks = terms_of_masks(head.mask_head, levels[:-1], given, batch, count)
        side = max(1, self.model.side // FINER)
        total, pixels = boxed_bce(scores / self.config.tau, boxes, there, classes, side)
        return found | masks | {"scores": total, "count": pixels}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        def mean(name: str, count: str) -> Tensor:
            return features[name].sum() / features[count].sum().clamp(min=1)

        terms = {name: mean(name, count) for name, count in _TERMS.items()}
        scores = self.config.weight * mean("scores", "count")
        return Losses({**terms, "scores": scores}, {"accuracy": mean("hits", "boxes_count")})
