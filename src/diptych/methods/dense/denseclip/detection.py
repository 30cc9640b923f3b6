"""DenseCLIP's detection: a detector reads the scores of classes, which are trained inside of the boxes.

    L = L_focal + L_boxes + BCE inside of boxes (s_b / tau)

The first two are means over images of RetinaNet's losses; the last is a mean over the scores of the
pixels, at a quarter of the image's side, that are in any box.

Dimensions: B images, R boxes, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from diptych.data.batch import Batch
from diptych.data.boxes import things
from diptych.data.sample import Source
from diptych.data.views import RegionView, View
from diptych.errors import InputError, located
from diptych.methods.base import At, Features, Losses, Method, Stage
from diptych.methods.dense.denseclip.backbone import PooledTower, encoder_on
from diptych.methods.dense.denseclip.detector import DenseDetector
from diptych.methods.dense.denseclip.losses import boxed_bce
from diptych.methods.make import NO_TOWER, Make
from diptych.models.class_names import check_names
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

FINER = 4
"""How many pixels of the image a pixel of the box targets has a side."""


class Detection(Method):
    """A detector on a dual encoder, whose text tower is frozen."""

    Model: ClassVar[type[DenseDetector]] = DenseDetector
    adapts = True
    model: DenseDetector

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        if extra := set(config.augment) - {"flip"}:
            raise InputError(
                f"augment of detection has {sorted(extra)[0]!r}; boxes move with flip alone"
            )
        encoder = encoder_of(config, make)
        self.model = self.Model(encoder, make.tokenizer, config.parts(), **self.options())
        self.names: tuple[str, ...] = ()
        self.classes: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """Further options of the model."""
        return {}

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Read the class names of the boxes. Raises InputError for boxes without."""
        source = sources["train"]
        if "boxes" not in source.schema():  # which is reported with all other missing fields
            return
        with located(source.name):
            self.names = check_names(things(source))
            self.model.set_classes(self.names)
        self.classes = source.schema()["boxes"].classes

    def stages(self) -> Sequence[Stage]:
        return (Stage(min_batch=1, lr_scale=rates(self)),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (self.region_view(),)

    def region_view(self, **options: Any) -> RegionView:
        """The view of images with boxes, with further options."""
        return RegionView(
            preprocess=self.model.image.preprocess,
            max_boxes=self.config.max_boxes,
            classes=self.classes,
            names=self.names,
            flip=self.config.augment.get("flip", True),
            **options,
        )

    def encode(self, batch: Batch, at: At) -> Features:
        boxes = batch.fields["regions"]
        there = batch.fields["regions.there"]
        classes = batch.fields["regions.classes"]
        side = self.model.side
        outputs, anchors, scores = self.model(batch.image.flat)
        own = [side * rows[held] for rows, held in zip(boxes, there, strict=True)]
        kinds = [rows[held] for rows, held in zip(classes, there, strict=True)]
        head: Any = self.model.head
        total, count = boxed_bce(
            scores / self.config.tau, boxes, there, classes, max(1, side // FINER)
        )
        return head.losses(outputs, anchors, own, kinds) | {"scores": total, "count": count}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        scores = features["scores"].sum() / features["count"].sum().clamp(min=1)
        return Losses(
            {
                "names": features["names"].mean(),
                "moves": features["moves"].mean(),
                "scores": self.config.weight * scores,
            }
        )


def encoder_of(config: Any, make: Make) -> DualEncoder:
    """The dual encoder that is trained on, whose images another backbone may read. Raises InputError for a
    model that does not read texts, and as `encoder_on` does."""
    if make.text_spec == NO_TOWER or make.words is None:
        raise InputError(
            "classes are told by their names, and this model has no text tower or came without its "
            "tokenizer; start from one of images and texts"
        )
    scale = Temperature(1 / config.tau, form="fixed")
    if config.backbone is None or make.rebuilds:
        return make.dual(logit_scale=scale)
    return encoder_on(config.backbone, make, scale, config.size)


def rates(method: Any) -> dict[str, float]:
    """The multiples of the learning rate of the image tower's parts."""
    # an image tower may have no projection with weights, and no pooler
    trained = [
        name for name, value in method.named_parameters() if not getattr(value, "frozen", False)
    ]
    names = ["image", "image_projection", "image_pooler"]
    if isinstance(method.model.image, PooledTower):  # whose pool and projection are new
        names = ["image.inner"]
    parts = [f"model.encoder.{name}" for name in names]
    return {
        part: method.config.backbone_rate
        for part in parts
        if any(name.startswith(f"{part}.") for name in trained)
    }
