"""Two CLS tokens (as in TIPS, Maninis et al., 2025): each learns from captions of its own kind, and is
a space of its own.

    L = 1/2 [ InfoNCE(x_web, t_web) + InfoNCE(x_synthetic, t_synthetic) ]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import ImageView, TextView, View
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.pairs import SMALL
from diptych.methods.make import Make
from diptych.objectives.contrastive import info_nce
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

card = {
    "title": "Two captions",
    "year": 2025,
    "kind": "method",
    "entry": "TwoCaptions",
    "provenance": "paper",
}
SPACES = ("web", "synthetic")


@dataclass(frozen=True, kw_only=True)
class Config:
    """`scale` multiplies the cosines when training starts."""

    scale: float = 10.0


class TwoCaptions(Method):
    """InfoNCE of each CLS token with the texts of its role."""

    Config = Config
    model: DualEncoder

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.model = make.dual(logit_scale=Temperature(config.scale), spaces=SPACES)

    def views(self, stage: Stage, stream: str = "train") -> tuple[View, ...]:
        words = self.make.tokenizer
        return (
            ImageView(preprocess=self.model.image.preprocess),
            *(TextView(tokenizer=words, name=name, role=name) for name in SPACES),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        return {**self._encode_images(batch, at), **self._encode_texts(batch, at)}

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return {"images": self._encode_images, "texts": self._encode_texts}

    def _encode_images(self, batch: Batch, at: At) -> Features:
        pooled = self.model.image(batch.image.flat).pooled  # of both spaces (B, 2, D)
        return {"images": normalize(self.model.project_image(pooled), dim=-1)}

    def _encode_texts(self, batch: Batch, at: At) -> Features:
        return {name: self.model.embed_texts(*batch.texts[name].flat) for name in SPACES}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        scale = self.model.logit_scale()
        terms = {
            name: info_nce(features["images"][:, number], features[name], scale) / 2
            for number, name in enumerate(SPACES)
        }
        return Losses(terms)


TwoCaptions.presets = {
    "small": Preset(
        image="vit:image_size=32:patch=8:width=64:depth=2:heads=2:cls=2",
        text="text:width=64:depth=1:heads=2:causal=false:pooling=mean",
        tokenizer=SMALL.tokenizer,
        embed_dim=32,
        recipe=replace(SMALL.recipe, batch_size=32, epochs=2, ema=None),
    ),
    "paper": Preset(
        image="vit:image_size=224:patch=14:width=768:depth=12:heads=12:cls=2",
        text="text:width=768:depth=12:heads=12",
        tokenizer="clip",
        embed_dim=768,
        recipe=Recipe(lr=5e-4, batch_size=16384, epochs=1),
    ),
}
