"""CLIP distilled from a larger CLIP, as open_clip has it (2023).

A student is trained with CLIP's loss and also to match a frozen teacher's distribution over the
batch:

    L = L_CLIP + w · L_dist,   L_dist = ½ [ mean_i CE(softmax S'_i, S_i) + the same of the columns ]

S = s X Y^T (B, B) are the student's logits and S' = s' X' Y'^T the teacher's, each with its own
scale; w = 1 as published. The two spaces may differ in width. The teacher is in evaluation mode,
gets no gradient, and is neither trained nor saved. Inference: the student, a plain CLIP.

In open_clip both models read the same pixels and the same ids. [choice] Here a teacher with another
image size or vocabulary reads the same crop and the same words in its own format.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from diptych.data.batch import Batch
from diptych.data.views import ImageView, TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Stage
from diptych.methods.families.pairs import SMALL, tune
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.clip import Config as CLIPConfig
from diptych.methods.teacher import Teacher
from diptych.objectives.distillation import distilled
from diptych.spec import ModelSpec, NotNegative

card = {
    "title": "Distillation of a CLIP model, as open_clip has it",
    "year": 2023,
    "kind": "method",
    "entry": "DistillCLIP",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(CLIPConfig):
    """`teacher` is a model as `--init` accepts it: a RUN, `openclip:NAME/TAG`, `hf:FOLDER`, `tiny`.
    `distillation` is w, the weight of the distillation loss."""

    teacher: ModelSpec = ""
    distillation: NotNegative = 1.0

    several: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher:
            raise InputError(
                "teacher is not given, and this method learns from one; name a model with "
                "--method.teacher, such as runs/large, openclip:NAME/TAG, hf:FOLDER or tiny"
            )


class DistillCLIP(CLIP):
    """CLIP with distillation from a teacher."""

    Config = Config
    features_from = (
        Method.features_from
    )  # the loss reads more than images and texts, so it cannot be added to another method

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.teacher = Teacher(config.teacher)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        image, text = super().views(stage, stream)
        assert isinstance(image, ImageView)
        assert isinstance(text, TextView)
        return (image, text, *self.teacher.views(image, text))

    def _encode_images(self, batch: Batch, at: At) -> Features:
        return {
            **super()._encode_images(batch, at),
            "teacher_image": self.teacher.embed_images(batch),
        }

    def _encode_texts(self, batch: Batch, at: At) -> Features:
        return {**super()._encode_texts(batch, at), "teacher_text": self.teacher.embed_texts(batch)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        losses = super().loss(features, batch, at)
        distance = distilled(
            features["image"],
            features["text"],
            self.model.logit_scale(),
            features["teacher_image"],
            features["teacher_text"],
            self.teacher.module.logit_scale(),
        )
        return Losses(
            {**losses.terms, "distillation": self.config.distillation * distance}, losses.logged
        )


DistillCLIP.presets = {
    "small": replace(
        SMALL, config={**SMALL.config, "scale": 5.0, "teacher": "tiny"}
    ),  # ships with the package, trained on scenes
    "paper": replace(
        CLIP.presets["paper"], config={"teacher": "openclip:ViT-L-14-quickgelu/openai"}
    ),
}
DistillCLIP.presets = {**DistillCLIP.presets, "tune": tune(DistillCLIP.presets["small"])}
