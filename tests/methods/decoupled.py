"""Decoupled contrastive learning (Yeh et al., ECCV 2022) on pairs: the positive leaves the
denominator.

    L = 1/2 [ d(s X Y^T) + d(s Y X^T) ],   d(Z) = mean_i ( -Z_ii + log sum_{j != i} exp Z_ij )

X, Y (B, E) are unit-norm embeddings. Without the positive in the denominator, a pair that is
already found still pulls.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.methods.base import Preset, Recipe
from diptych.methods.families.pairs import SMALL, PairConfig, Pairs, tune
from diptych.methods.make import Make
from diptych.towers.nn.parts import Temperature

card = {
    "title": "Decoupled Contrastive Learning",
    "year": 2022,
    "kind": "method",
    "entry": "Decoupled",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """`scale` multiplies the cosines; the paper keeps it fixed."""

    scale: float = 10.0


class Decoupled(Pairs):
    """The decoupled softmax loss over one batch of pairs."""

    Config = Config

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.model = make.dual(logit_scale=Temperature(config.scale, form="fixed"))

    def terms(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        logits = self.model.logit_scale() * image @ text.T
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        others = logits.masked_fill(own, -torch.inf)
        denominators = (others.logsumexp(1) + others.logsumexp(0)) / 2
        return {"contrastive": (denominators - logits.diagonal()).mean()}


Decoupled.presets = {
    # the towers and recipe of all methods on pairs, so that `diptych compare` compares losses
    "small": SMALL,
    "tune": tune(SMALL),  # what continues a trained model (--init)
    # The paper trains on images alone; [choice] CLIP's towers and recipe.
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
