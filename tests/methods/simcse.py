"""SimCSE (Gao et al., 2021), an encoder of texts alone: two passes of a text through dropout are a
pair.

    L = mean_i -log ( exp(cos(a_i, b_i) / tau) / sum_j exp(cos(a_i, b_j) / tau) )
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.data.batch import Batch
from diptych.data.views import TextView, View
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import NO_TOWER, Make
from diptych.objectives.contrastive import info_nce
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

card = {
    "title": "SimCSE: Simple Contrastive Learning of Sentence Embeddings",
    "year": 2021,
    "kind": "method",
    "entry": "SimCSE",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """`role` is the role of the texts, as in `TextView`; `tau` is the temperature."""

    role: str = "caption"
    tau: float = 0.05


class SimCSE(Method):
    """InfoNCE between two passes of the same texts."""

    Config = Config
    model: DualEncoder

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return ("embed {run} SOURCE --out EMB",)

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.model = make.dual(logit_scale=Temperature(1 / config.tau, form="fixed"))

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (TextView(tokenizer=self.make.tokenizer, role=self.config.role),)

    def encode(self, batch: Batch, at: At) -> Features:
        texts = batch.text.flat
        return {"one": self.model.embed_texts(*texts), "other": self.model.embed_texts(*texts)}

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return {"texts": self.encode}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        scale = self.model.logit_scale()
        return Losses({"info_nce": info_nce(features["one"], features["other"], scale)})


SimCSE.presets = {
    "small": Preset(
        image=NO_TOWER,
        text="text:width=64:depth=1:heads=2:causal=false:pooling=mean:dropout=0.1",
        tokenizer="bpe:vocab_size=512:context=32",
        embed_dim=32,
        recipe=Recipe(lr=1e-3, batch_size=32, epochs=3),
    ),
    "paper": Preset(
        image=NO_TOWER,
        text="text:width=768:depth=12:heads=12:causal=false:pooling=first:dropout=0.1",
        tokenizer="bpe:vocab_size=30522:context=32",
        embed_dim=768,
        recipe=Recipe(lr=3e-5, batch_size=64, epochs=1),
    ),
}
