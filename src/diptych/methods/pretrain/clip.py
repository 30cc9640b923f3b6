"""CLIP: Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML
2021).

Two towers embed images and texts in one space. In a batch of B pairs each image must find its text
among B, and each text its image.

    L = 1/2 [ CE(s X Y^T, diagonal) + CE(s Y X^T, diagonal) ],   s = exp(theta), theta_0 = ln(1 / 0.07), s <= 100

X, Y (B, E) are the unit-norm embeddings. Inference: cosine similarity of embeddings; class
embeddings come from the text of the class names.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from diptych.methods.base import Preset, Recipe
from diptych.methods.families.pairs import SMALL, DuplicatesConfig, Pairs, tune
from diptych.methods.make import Make
from diptych.objectives import info_nce
from diptych.spec import Positive
from diptych.towers.nn.parts import Temperature

card = {
    "title": "CLIP: Learning Transferable Visual Models From Natural Language Supervision",
    "year": 2021,
    "kind": "method",
    "entry": "CLIP",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(DuplicatesConfig):
    """`scale` is the initial multiplier of the cosines, which is learned in log space up to
    `max_scale`."""

    scale: Positive = 1 / 0.07
    max_scale: Positive = 100.0


class CLIP(Pairs):
    """The symmetric softmax loss over one batch of pairs."""

    Config = Config

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.model = make.dual(logit_scale=Temperature(config.scale, clamp=(1.0, config.max_scale)))

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        return {"contrastive": info_nce(image, text, self.model.logit_scale(), **equal)}


CLIP.presets = {
    "small": replace(
        SMALL, config={**SMALL.config, "scale": 5.0}
    ),  # a scale of 14 lets small towers collapse
    "paper": Preset(
        image="vit:image_size=224:patch=32:width=768:depth=12:heads=12:pre_norm=true",
        text="text:width=512:depth=12:heads=8",
        tokenizer="clip",
        embed_dim=512,
        recipe=Recipe(
            lr=5e-4,
            weight_decay=0.2,
            warmup=2000,
            epochs=32,
            batch_size=32768,
            precision="bfloat16",
        ),
    ),
}
CLIP.presets = {**CLIP.presets, "tune": tune(CLIP.presets["small"])}
