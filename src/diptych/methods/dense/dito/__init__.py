"""DITO: Detection-Oriented Image-Text Pretraining for Open-Vocabulary Detection (Kim et al., 2023).

A dual encoder goes on learning from images with texts through the parts of a detector: a pyramid of
maps and the head that names boxes. Boxes are random, and need no labels.

    r_bl = head( RoIAlign(pyramid_l(tower(x)), box_b) ),     v_l = unit( max_b r_bl )
    L = mean over levels l of  ½ [ CE(s V_l T^T, diagonal) + CE(s T V_l^T, diagonal) ]

The max is taken in each dimension, so that boxes without an object are harmless. Then the detector is
trained on the boxes of some classes (`task="detect"`), with attention in windows, averaged with a
shifted copy. In inference its scores are mixed with those of the frozen tower from before.

The module is `models.two_stage`, the training of its detector `families.detection`.

Dimensions: B images, R boxes, L levels, E embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F

from diptych.data.batch import Batch
from diptych.data.views import RegionView, TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.detection import Detection, begun
from diptych.methods.families.few_shot import PAPER, SMALL
from diptych.methods.make import Make
from diptych.models.two_stage.boxes import BoxConfig
from diptych.models.two_stage.detector import DetectorConfig, RegionDetector
from diptych.models.two_stage.proposals import ProposalConfig
from diptych.models.two_stage.windows import Windows
from diptych.objectives import info_nce
from diptych.spec import Count, NotNegative, Width, configure, parse
from diptych.towers.nn.parts import Temperature, freeze

card = {
    "title": "Detection-Oriented Image-Text Pretraining for Open-Vocabulary Detection",
    "year": 2023,
    "kind": "method",
    "entry": "DITO",
    "provenance": "code",
    "abilities": {"embed_regions": "--init MODEL"},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options.

    - `task` is "pretrain", on images with texts, or "detect", on images with boxes.
    - `size` is the side in pixels at which whole images are read (None: the tower's).
    - `pyramid` is the number of channels of the pyramid, `width` that of the box head's layers.
    - `backbone_rate` multiplies the learning rate of the image tower; 0 freezes it.

    Of pretraining:

    - `role` is that of the texts.
    - `regions` are boxes without labels: "random:count=32", or "grid:side=1", the whole image. All
      levels pool the same ones.
    - `pool` is how the vectors of an image's boxes become one.
    - `train_text` trains the text tower too.

    Of detection:

    - `template` is the prompt of class names.
    - `max_boxes` is the largest number of boxes of an image in training, of which `flip` mirrors half and
      `jitter` scales by a factor between two.
    - `masks` also learns the masks of objects, by one branch for all classes.
    - `windows`, `proposals` and `boxes` are options of `windows.Windows`, `proposals.ProposalConfig`
      and `boxes.BoxConfig`.
    """

    task: Literal["pretrain", "detect"] = "pretrain"
    size: Count | None = None
    pyramid: Width = 256
    width: Width = 1024
    backbone_rate: NotNegative = 0.1
    role: str = "caption"
    regions: str = "random:count=32"
    pool: Literal["max", "mean"] = "max"
    train_text: bool = False
    template: str = "a photo of a {}."
    max_boxes: Count = 100
    flip: bool = True
    jitter: tuple[NotNegative, NotNegative] | None = None
    masks: bool = False
    windows: Mapping[str, Any] = field(default_factory=dict)
    proposals: Mapping[str, Any] = field(default_factory=dict)
    boxes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.regions == "boxes":
            raise InputError(
                "the boxes of pretraining have no labels and are not those of the data; give random:count=32"
            )
        if self.masks and self.task == "pretrain":
            raise InputError("masks are learnt beside boxes; give --method.task detect too")

    def detector(self) -> DetectorConfig:
        """The module's options."""
        return DetectorConfig(
            size=self.size,
            pyramid=self.pyramid,
            width=self.width,
            detects=self.task == "detect",
            masks=self.masks,
            windows=configure(Windows, dict(self.windows), "windows"),
            proposals=configure(ProposalConfig, dict(self.proposals), "proposals"),
            boxes=configure(BoxConfig, dict(self.boxes), "boxes"),
        )


class DITO(Method):
    """A dual encoder with the box head of a detector, trained on images with texts."""

    Config = Config
    adapts = True
    test_options: ClassVar = {"windows": {"everywhere": 2}, "proposals": {"post_nms_top_n": 50}}
    model: RegionDetector

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(1 / 0.07, clamp=(1.0, 100.0)))
        self.model = begun(encoder, make, config.template, config.detector())
        encoder = self.model.encoder
        # regions are pooled from positions: nothing reads what the tower pools
        freeze(encoder.image_projection, encoder.image_pooler, getattr(encoder.image, "pool", None))
        if not config.train_text:
            freeze(encoder.text, encoder.text_projection)

    @classmethod
    def of(cls, config: Any, make: Make) -> Method:
        if config.task == "pretrain":
            return cls(config, make)
        made = Detection(config, make)
        made.presets = cls.presets  # type: ignore[misc]  # set on the instance
        return made

    def stages(self) -> Sequence[Stage]:
        return (Stage(lr_scale={"model.encoder.image": self.config.backbone_rate}),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        count = _count(config.regions)
        return (
            RegionView(
                preprocess=self.model.image.preprocess, max_boxes=count, regions=config.regions
            ),
            TextView(tokenizer=self.make.tokenizer, role=config.role),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        return {**self._encode_images(batch, at), **self._encode_texts(batch, at)}

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return {"images": self._encode_images, "texts": self._encode_texts}

    def _encode_images(self, batch: Batch, at: At) -> Features:
        boxes = batch.fields["regions"]
        levels = [self.model.of_level(each, boxes) for each in self.model.maps(batch.image.flat)]
        regions = torch.stack(levels, dim=1)  # (B, L, R, E)
        image = regions.amax(2) if self.config.pool == "max" else regions.mean(2)
        return {"image": F.normalize(image, dim=-1)}

    def _encode_texts(self, batch: Batch, at: At) -> Features:
        return {"text": self.model.encoder.embed_texts(*batch.texts["main"].flat)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        scale = self.model.encoder.logit_scale()
        levels = [info_nce(image, features["text"], scale) for image in features["image"].unbind(1)]
        return Losses({"contrastive": torch.stack(levels).mean()}, {"scale": scale})

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        if options.get("task") == "detect":
            masks = " --masks DIR" if options.get("masks") else ""
            return (
                f"detect {{run}} IMAGES --names 'A,B,C'{masks}",
                "evaluate {run} --data {data} --suite detection",
            )
        return (
            "train dito --init {run} --method.task detect --data BOXES",
            "evaluate {run} --data SOURCE --suite regions",
        )


def _count(regions: str) -> int:
    """The number of boxes of an image. Raises InputError for regions without one."""
    spec = parse(regions)
    match spec.name, spec.options:
        case "random", {"count": int(count)}:
            return count
        case "grid", {"side": int(side)}:
            return side**2
    raise InputError(
        f"regions {regions!r} do not say how many; write random:count=32 or grid:side=1"
    )


_RECIPE = Recipe(lr=5e-4, weight_decay=0.01, warmup=10_000, batch_size=4096, steps=30_000)
_DETECT = Recipe(
    optimizer="sgd",
    lr=0.18,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    schedule="steps:at=[0.8,0.9,0.95]:by=0.1",
    warmup=1000,
    batch_size=256,
    steps=46_100,
)
DITO.presets = {
    "small": replace(
        SMALL,
        config={"pyramid": 64, "width": 128, "regions": "random:count=8", "backbone_rate": 1.0},
        recipe=replace(
            _RECIPE, optimizer="muon", lr=8e-3, warmup=0.1, batch_size=64, steps=None, epochs=10
        ),
    ),
    "paper": replace(PAPER, config={"pyramid": 256, "width": 1024}, recipe=_RECIPE),
    "detect": replace(
        PAPER,
        config={
            "task": "detect",
            "size": 1024,
            "pyramid": 256,
            "width": 1024,
            "backbone_rate": 0.6,
            "jitter": (0.1, 2.0),
        },
        recipe=_DETECT,
    ),
    "tune": Preset(
        config={"pyramid": 128, "width": 512, "regions": "random:count=8"},
        recipe=replace(_RECIPE, lr=1e-3, warmup=0.1, batch_size=64, steps=None, epochs=5),
    ),
}
