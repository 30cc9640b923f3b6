"""SigLIP: Sigmoid Loss for Language Image Pre-Training (Zhai et al., ICCV 2023).

Each of the B x B pairs is a separate binary classification, so no row needs the others' logits:

    L = -1/B sum_ij log sigmoid( z_ij (s x_i . y_j + b) ),   z_ij = 1 if i = j else -1,   s = exp(theta)

theta_0 = ln 10, b_0 = -10: at the start nearly every pair is rightly predicted as negative.
Inference: cosine similarity, or sigmoid(s x.y + b).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diptych.methods.base import Features, Preset, Recipe
from diptych.methods.families.pairs import SMALL, DuplicatesConfig, Pairs, tune
from diptych.methods.make import Make
from diptych.objectives import sigmoid_pairs
from diptych.spec import Positive
from diptych.towers.nn.parts import Temperature

card = {
    "title": "SigLIP: Sigmoid Loss for Language Image Pre-Training",
    "year": 2023,
    "kind": "method",
    "entry": "SigLIP",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(DuplicatesConfig):
    """`scale` and `bias` are the initial values in the logits s x.y + b."""

    scale: Positive = 10.0
    bias: float = -10.0


class SigLIP(Pairs):
    """The pairwise sigmoid loss over one batch of pairs."""

    Config = Config
    share = False  # each pair is a separate term, so positives do not compete

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.model = make.dual(logit_scale=Temperature(config.scale), logit_bias=config.bias)

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        assert self.model.logit_bias is not None
        return {
            "contrastive": sigmoid_pairs(
                image, text, self.model.logit_scale(), self.model.logit_bias, **equal
            )
        }

    def logged(self, features: Features) -> Mapping[str, Tensor | float]:
        assert self.model.logit_bias is not None
        return {"scale": self.model.logit_scale(), "bias": self.model.logit_bias}


SigLIP.presets = {
    "small": SMALL,
    # The paper's optimiser is Adafactor and its tokenizer a SentencePiece model of C4; [choice]
    # AdamW with the same rates, and a byte-pair vocabulary of the same size, trained on the run's
    # captions.
    "paper": Preset(
        image="vit:image_size=224:patch=16:width=768:depth=12:heads=12:pooling=map",
        text="text:width=768:depth=12:heads=12:causal=false:pooling=last",
        tokenizer="bpe:vocab_size=32000:context=64:padding=max",
        embed_dim=768,
        recipe=Recipe(
            lr=1e-3,
            betas=(0.9, 0.95),
            weight_decay=1e-4,
            warmup=20000,
            epochs=10,
            batch_size=32768,
            precision="bfloat16",
        ),
    ),
}
SigLIP.presets = {**SigLIP.presets, "tune": tune(SigLIP.presets["small"])}
