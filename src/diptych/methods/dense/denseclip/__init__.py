"""DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., CVPR 2022).

The cosines of an image's positions with the names of classes are a map of scores. A segmentor reads
them beside the maps of its backbone, and they are trained as a segmentation themselves:

    t_b = t + gamma · Decoder(t, [z_bar_b, z_b]),    s_b = <unit z_b, unit t_b>
    L   = CE(FPN(…, [x_i, s_b], …), y) + 0.4 · CE(s_b / tau, y)

t are the class names behind learned context vectors, by the frozen text tower. z_b are the positions
of image b in the space of texts, z_bar_b its vector. Both losses are means over the pixels that have a
class. Inference: `segment`, `score_map`. With `task="detect"` the same maps are a detector's
(`detection.py`), with `task="instances"` those of one that finds masks too (`instances.py`).

Dimensions: B images, K classes, H x W pixels, h x w positions, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from diptych.data.batch import Batch
from diptych.data.sample import Source
from diptych.data.views import View
from diptych.errors import InputError, located
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.dense.denseclip.detection import Detection, encoder_of, rates
from diptych.methods.dense.denseclip.instances import Instances
from diptych.methods.dense.denseclip.losses import pixel_ce, pixel_hits
from diptych.methods.dense.denseclip.scored import ScoredConfig
from diptych.methods.dense.denseclip.segmentor import Segmentor
from diptych.methods.dense.denseclip.views import Crops, MaskView
from diptych.methods.families.few_shot import PAPER, SMALL
from diptych.methods.make import Make
from diptych.models.class_names import check_names
from diptych.spec import Count, ModelSpec, NotNegative, Share, Width, configure

card = {
    "title": "DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting",
    "year": 2022,
    "kind": "method",
    "entry": "DenseCLIP",
    "provenance": "code",
    "abilities": {"segment": "--init MODEL", "segment_whole": "--init MODEL"},
}


@dataclass(frozen=True, kw_only=True)
class Config(ScoredConfig):
    """Options of `scored.ScoredConfig`, and:

    - `task` is "segment", from masks, "detect", from boxes, or "instances", from boxes with masks.
    - `mask` is the mask of the training data that is learned; its numbers have class names.
    - `scores_weight` is the weight of the loss of the score map (None: .4 of a segmentor, 1 of a
      detector).
    - `backbone` names the image tower in place of the given model's, which then gives the texts alone, or
      of `--image-tower`: the spec of a tower, such as `timm:resnet50:weights=FILE`, or of a model, as
      `diptych.load` takes it (`backbone.py`).
    - `backbone_rate` multiplies the learning rate of the image tower; a new pool has the full one.
    - `augment` holds options of `views.Crops`; of them a detector has `flip` alone.
    - `max_boxes` is the largest number of boxes of an image.
    - `hidden` is the width of the layers that name the boxes of instances, `proposals` are options of
      `models.two_stage.proposals.ProposalConfig` for them.
    """

    task: Literal["segment", "detect", "instances"] = "segment"
    mask: str = "class"
    scores_weight: NotNegative | None = None
    backbone: ModelSpec | None = None
    backbone_rate: Share = 0.1
    augment: Mapping[str, Any] = field(default_factory=dict)
    max_boxes: Count = 100
    hidden: Width = 1024
    proposals: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """The weight of the loss of the score map."""
        if self.scores_weight is not None:
            return self.scores_weight
        return 0.4 if self.task == "segment" else 1.0

    def parts(self) -> ScoredConfig:
        """The options of the module."""
        return ScoredConfig(
            **{each.name: getattr(self, each.name) for each in fields(ScoredConfig)}
        )


class DenseCLIP(Method):
    """A segmentor on a dual encoder, whose text tower is frozen."""

    Config = Config
    adapts = True
    test_options: ClassVar = {
        "size": 64,
        "proposals": {"post_nms_top_n": 50},
    }  # a narrow model reads 640 pixels as slowly as a wide one
    model: Segmentor

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.crops = configure(Crops, dict(config.augment), "augment")
        encoder = encoder_of(config, make)
        self.model = Segmentor(encoder, make.tokenizer, config.parts(), config.mask)
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

    @classmethod
    def of(cls, config: Any, make: Make) -> Method:
        if config.task == "segment":
            return cls(config, make)
        made = (Detection if config.task == "detect" else Instances)(config, make)
        made.presets = cls.presets  # type: ignore[misc]  # set on the instance
        return made

    def stages(self) -> Sequence[Stage]:
        return (Stage(min_batch=1, lr_scale=rates(self)),)

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
            {"pixels": means["pixels"], "scores": self.config.weight * means["scores"]},
            {"accuracy": means["hits"]},
        )

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        if options.get("task") == "detect":
            return "detect {run} IMAGES", "evaluate {run} --data {data} --suite detection"
        if options.get("task") == "instances":
            return (
                "detect {run} IMAGES --masks DIR",
                "evaluate {run} --data {data} --suite detection",
            )
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
_DETECT = replace(
    _RECIPE,
    schedule="steps:at=[0.667,0.917]:by=0.1",
    min_lr=0.0,
    warmup=500,
    clip=0.1,
    batch_size=16,
    steps=None,
    epochs=12,
)
DenseCLIP.presets = {
    "small": replace(
        SMALL,
        config={**_WIDTHS, "width": 64, "inner": 64, "decoder_width": 64, "hidden": 128},
        recipe=replace(_RECIPE, lr=3e-3, warmup=0.05, batch_size=16, steps=None, epochs=30),
    ),
    "paper": replace(PAPER, config={**_WIDTHS, "size": 640, "norm": "batch"}, recipe=_RECIPE),
    "detect": replace(
        PAPER,
        config={**_WIDTHS, "task": "detect", "size": 800, "norm": "batch"},
        recipe=_DETECT,
    ),
    "instances": replace(
        PAPER,
        config={
            **_WIDTHS,
            "task": "instances",
            "size": 800,
            "norm": "batch",
            "hidden": 1024,
        },
        recipe=replace(_DETECT, lr=2e-4),
    ),
    "tune": Preset(
        config=_WIDTHS, recipe=replace(_RECIPE, warmup=0.05, batch_size=16, steps=None, epochs=20)
    ),
}
