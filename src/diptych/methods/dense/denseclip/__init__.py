"""DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., CVPR 2022).

The cosines of an image's positions with the names of classes are a map of scores. A segmentor reads
them beside the maps of its backbone, and they are trained as a segmentation themselves:

    t_b = t + gamma · Decoder(t, [z_bar_b, z_b]),    s_b = <unit z_b, unit t_b>
    L   = CE(FPN(…, [x_i, s_b], …), y) + 0.4 · CE(s_b / tau, y)

t are the class names behind learned context vectors, by the frozen text tower. z_b are the positions
of image b in the space of texts, z_bar_b its vector. Both losses are means over the pixels that have a
class. Inference: `segment`, `score_map`.

Dimensions: B images, K classes, H x W pixels, h x w positions, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from diptych.data.batch import Batch
from diptych.data.sample import Source
from diptych.data.views import View
from diptych.errors import InputError, located
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.dense.denseclip.losses import pixel_ce, pixel_hits
from diptych.methods.dense.denseclip.segmentor import Segmentor, SegmentorConfig
from diptych.methods.dense.denseclip.views import Crops, MaskView
from diptych.methods.families.few_shot import PAPER, SMALL
from diptych.methods.make import Make
from diptych.models.class_names import check_names
from diptych.spec import NotNegative, Share, configure
from diptych.towers.nn.parts import Temperature

card = {
    "title": "DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting",
    "year": 2022,
    "kind": "method",
    "entry": "DenseCLIP",
    "provenance": "code",
    "abilities": {"segment": "--init MODEL", "segment_whole": "--init MODEL"},
}


@dataclass(frozen=True, kw_only=True)
class Config(SegmentorConfig):
    """The segmentor's options, and:

    - `mask` is the mask of the training data that is learned; its numbers have class names.
    - `scores_weight` is the weight of the loss of the score map.
    - `backbone_rate` multiplies the learning rate of the image tower.
    - `augment` holds options of `views.Crops`.
    """

    mask: str = "class"
    scores_weight: NotNegative = 0.4
    backbone_rate: Share = 0.1
    augment: Mapping[str, Any] = field(default_factory=dict)


class DenseCLIP(Method):
    """A segmentor on a dual encoder, whose text tower is frozen."""

    Config = Config
    adapts = True
    test_options: ClassVar = {"size": 64}  # a narrow model reads 640 pixels as slowly as a wide one
    model: Segmentor

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.crops = configure(Crops, dict(config.augment), "augment")
        encoder = make.dual(logit_scale=Temperature(1 / config.tau, form="fixed"))
        if encoder.text is None or make.words is None:
            raise InputError(
                "classes are told by their names, and this model has no text tower or came without its "
                "tokenizer; start from one of images and texts"
            )
        options = {each.name: getattr(config, each.name) for each in fields(SegmentorConfig)}
        self.model = Segmentor(encoder, make.tokenizer, SegmentorConfig(**options), config.mask)
        self.names: tuple[str, ...] = ()

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Read the class names of the mask. Raises InputError for a mask without."""
        source = sources["train"]
        found = source.schema().get(f"masks.{self.config.mask}")
        if found is None:  # which is reported with all other missing fields
            return
        if not found.classes:
            raise InputError(
                f"the mask {self.config.mask!r} of {source.name!r} has no class names, so its numbers may be those of "
                "objects; name another with --method.mask"
            )
        with located(source.name):
            self.names = check_names(found.classes)
            self.model.set_classes(self.names)

    def stages(self) -> Sequence[Stage]:
        # an image tower may have no projection with weights, and no pooler
        trained = [
            name for name, value in self.named_parameters() if not getattr(value, "frozen", False)
        ]
        parts = [f"model.encoder.{name}" for name in ("image", "image_projection", "image_pooler")]
        held = {
            part: self.config.backbone_rate
            for part in parts
            if any(name.startswith(f"{part}.") for name in trained)
        }
        return (Stage(min_batch=1, lr_scale=held),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (
            MaskView(
                preprocess=self.model.image.preprocess,
                mask=self.config.mask,
                classes=self.names,
                crops=self.crops,
            ),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        labels: Any = batch.fields["mask"]
        logits, scores = self.model(batch.image.flat)
        pixels, count = pixel_ce(logits, labels)
        of_scores, _ = pixel_ce(scores / self.config.tau, labels)
        hits = pixel_hits(logits, labels)
        return {"pixels": pixels, "scores": of_scores, "count": count, "hits": hits}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        count = features["count"].sum().clamp(min=1)
        means = {name: features[name].sum() / count for name in ("pixels", "scores", "hits")}
        return Losses(
            {"pixels": means["pixels"], "scores": self.config.scores_weight * means["scores"]},
            {"accuracy": means["hits"]},
        )

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "segment {run} IMAGES", "evaluate {run} --data {data} --suite segment"


_WIDTHS = {"width": 256, "inner": 128, "decoder_width": 256, "dropout": 0.1}
_RECIPE = Recipe(
    lr=1e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=1e-4,
    schedule="poly:power=0.9",
    min_lr=0.01,
    warmup=1500,
    batch_size=32,
    steps=80_000,
)
DenseCLIP.presets = {
    "small": replace(
        SMALL,
        config={**_WIDTHS, "width": 64, "inner": 64, "decoder_width": 64},
        recipe=replace(_RECIPE, lr=3e-3, warmup=0.05, batch_size=16, steps=None, epochs=30),
    ),
    "paper": replace(PAPER, config={**_WIDTHS, "size": 640, "norm": "batch"}, recipe=_RECIPE),
    "tune": Preset(
        config=_WIDTHS, recipe=replace(_RECIPE, warmup=0.05, batch_size=16, steps=None, epochs=20)
    ),
}
