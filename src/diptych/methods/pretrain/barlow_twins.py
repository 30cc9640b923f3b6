"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction (Zbontar et al., ICML 2021).

The loss drives the cross-correlation C (D, D) of the projections of two augmentations to the
identity: each dimension agrees between the views, and different dimensions are decorrelated.

    L = Σ_d (1 - C_dd)² + λ Σ_{d≠e} C_de²,   C = Z_1^T Z_2 / B

Z is standardised over the batch by the projector's last batch norm. Inference: the tower before the
projector.
"""

from dataclasses import dataclass, replace

from diptych.data.batch import Batch
from diptych.methods.base import At, Features, Losses, Recipe
from diptych.methods.families.image_only import PAPER, SMALL, ImageOnly, ImageOnlyConfig
from diptych.objectives.noncontrastive import redundancy
from diptych.spec import NetworkSpec, NotNegative

card = {
    "title": "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
    "year": 2021,
    "kind": "method",
    "entry": "BarlowTwins",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(ImageOnlyConfig):
    """`off_diagonal` is λ. `weight` multiplies the whole loss, which is a sum over dimensions."""

    projector: NetworkSpec = "mlp:hidden=8192:layers=3:last_norm=plain"
    off_diagonal: NotNegative = 0.0051
    weight: NotNegative = 1.0


class BarlowTwins(ImageOnly):
    """Redundancy reduction of two views."""

    Config = Config

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        one, other = features["views"].unbind(1)
        loss = self.config.weight * redundancy(one, other, off_diagonal=self.config.off_diagonal)
        return Losses({"redundancy": loss})


BarlowTwins.presets = {
    "small": replace(
        SMALL,
        config={
            **SMALL.config,
            "projector": "mlp:hidden=256:layers=3:last_norm=plain",
            "weight": 0.1,
        },
        embed_dim=256,
    ),
    "paper": replace(
        PAPER,
        config={"projector": "mlp:hidden=8192:layers=3:last_norm=plain", "weight": 0.024},
        embed_dim=8192,
        recipe=Recipe(
            optimizer="sgd",
            lr=1.6,
            betas=(0.9, 0.0),
            weight_decay=1.5e-6,
            warmup=0.01,
            min_lr=0.001,
            epochs=1000,
            batch_size=2048,
            precision="bfloat16",
        ),
    ),
}
