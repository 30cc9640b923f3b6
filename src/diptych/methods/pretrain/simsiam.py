"""SimSiam: Exploring Simple Siamese Representation Learning (Chen and He, CVPR 2021).

Two augmentations of each image predict each other, without negatives and without a momentum copy;
no gradient flows to the target:

    L = ½ [ D(p_1, stop(z_2)) + D(p_2, stop(z_1)) ],   D(p, z) = -mean cos(p, z)

z is the output of a projector of three layers, p = predictor(z). Inference: the tower before the
projector.
"""

from dataclasses import dataclass, replace
from typing import Any

from diptych.data.batch import Batch
from diptych.methods.base import At, Features, Losses, Recipe
from diptych.methods.families.image_only import PAPER, SMALL, ImageOnly, ImageOnlyConfig
from diptych.methods.make import Make
from diptych.objectives.noncontrastive import negative_cosine
from diptych.spec import NetworkSpec
from diptych.towers.nn.heads import head

card = {
    "title": "Exploring Simple Siamese Representation Learning",
    "year": 2021,
    "kind": "method",
    "entry": "SimSiam",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(ImageOnlyConfig):
    """`predictor` is the prediction head, whose output is as wide as the embedding space."""

    projector: NetworkSpec = "mlp:hidden=2048:layers=3:last_norm=plain"
    predictor: NetworkSpec = "mlp:hidden=512:last_bias=true"


class SimSiam(ImageOnly):
    """Predicts each view from the other."""

    Config = Config

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.predictor = head(
            config.predictor, self.model.embed_dim, self.model.embed_dim, "prediction"
        )

    def encode(self, batch: Batch, at: At) -> Features:
        features = super().encode(batch, at)
        return {**features, "predictions": self.predictor(features["views"])}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        (z1, z2) = features["views"].unbind(1)
        (p1, p2) = features["predictions"].unbind(1)
        loss = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 4 - 1  # from 2 - 2 cos to -cos
        return Losses({"negative_cosine": loss})


SimSiam.presets = {
    "small": replace(
        SMALL,
        config={
            **SMALL.config,
            "projector": "mlp:hidden=256:layers=3:last_norm=plain",
            "predictor": "mlp:hidden=64:last_bias=true",
        },
        embed_dim=256,
    ),
    "paper": replace(
        PAPER,
        config={
            "projector": "mlp:hidden=2048:layers=3:last_norm=plain",
            "predictor": "mlp:hidden=512:last_bias=true",
        },
        embed_dim=2048,
        recipe=Recipe(
            optimizer="sgd",
            lr=0.1,
            betas=(0.9, 0.0),
            weight_decay=1e-4,
            warmup=0,
            epochs=100,
            batch_size=512,
        ),
    ),
}
