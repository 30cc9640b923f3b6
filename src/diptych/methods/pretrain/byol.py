"""BYOL: Bootstrap Your Own Latent (Grill et al., NeurIPS 2020).

From one augmentation of an image the model predicts a momentum copy's projection of the other,
without negatives:

    L = [2 - 2 mean cos(q(z_1), z'_2)] + [2 - 2 mean cos(q(z_2), z'_1)]

z is the output of tower and projector, z' that of their copy, which is updated by p' <- m p' + (1 -
m) p with m = 1 - (1 - m_0) (cos(pi t) + 1) / 2, where t is the completed share of training; q is
the predictor. Inference: the tower before the projector. [choice] The copy is in evaluation mode,
with the running statistics of the model's batch norms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from diptych.data.batch import Batch
from diptych.methods.base import At, Features, Losses, Recipe
from diptych.methods.families.image_only import PAPER, SMALL, ImageOnly, ImageOnlyConfig
from diptych.methods.make import Make
from diptych.objectives.noncontrastive import negative_cosine
from diptych.spec import NetworkSpec, Share
from diptych.towers.nn.heads import head
from diptych.towers.nn.parts import Momentum, cosine_momentum

card = {
    "title": "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning",
    "year": 2020,
    "kind": "method",
    "entry": "BYOL",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(ImageOnlyConfig):
    """`predictor` is the prediction head, `momentum` is m_0."""

    projector: NetworkSpec = "mlp:hidden=4096"
    predictor: NetworkSpec = "mlp:hidden=4096"
    momentum: Share = 0.996


class BYOL(ImageOnly):
    """Predicts, from each view, the copy's projection of the other view."""

    Config = Config

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.predictor = head(
            config.predictor, self.model.embed_dim, self.model.embed_dim, "prediction"
        )
        self.slow = Momentum(self.model, config.momentum)

    def encode(self, batch: Batch, at: At) -> Features:
        predictions = self.predictor(self.projected(self.model, batch))
        with torch.no_grad():
            return {"predictions": predictions, "targets": self.projected(self.slow.module, batch)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        (p1, p2) = features["predictions"].unbind(1)
        (z1, z2) = features["targets"].unbind(1)
        return Losses({"negative_cosine": negative_cosine(p1, z2) + negative_cosine(p2, z1)})

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        self.slow.update(cosine_momentum(self.config.momentum, at.progress))


BYOL.presets = {
    "small": replace(
        SMALL,
        config={
            **SMALL.config,
            "projector": "mlp:hidden=256",
            "predictor": "mlp:hidden=256",
            "momentum": 0.98,
        },
    ),
    "paper": replace(
        PAPER,
        config={"projector": "mlp:hidden=4096", "predictor": "mlp:hidden=4096"},
        embed_dim=256,
        recipe=Recipe(
            optimizer="sgd",
            lr=3.2,
            betas=(0.9, 0.0),
            weight_decay=1.5e-6,
            warmup=0.01,
            epochs=1000,
            batch_size=4096,
            precision="bfloat16",
        ),
    ),
}
