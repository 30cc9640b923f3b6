"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., ICML
2020).

Two augmentations of each image must find each other among all other views of the batch:

    L = mean over the 2B views of -log [ exp(z_i·z_j / tau) / Σ_{k≠i} exp(z_i·z_k / tau) ],   j the partner of i

z are unit vectors behind a projector of two layers. Inference: the tower before the projector.
"""

from dataclasses import dataclass, replace

from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.methods.base import At, Features, Losses, Recipe
from diptych.methods.families.image_only import PAPER, SMALL, ContrastiveConfig, ImageOnly
from diptych.objectives import nt_xent
from diptych.spec import NetworkSpec

card = {
    "title": "A Simple Framework for Contrastive Learning of Visual Representations",
    "year": 2020,
    "kind": "method",
    "entry": "SimCLR",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(ContrastiveConfig):
    """The projector ends in a batch norm without shift."""

    projector: NetworkSpec = "mlp:hidden=2048:last_norm=scaled"


class SimCLR(ImageOnly):
    """NT-Xent of two views."""

    Config = Config

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        one, other = normalize(features["views"], dim=-1).unbind(1)
        return Losses({"nt_xent": nt_xent(one, other, self.config.tau)})


SimCLR.presets = {
    "small": replace(
        SMALL, config={**SMALL.config, "projector": "mlp:hidden=256:last_norm=scaled", "tau": 0.5}
    ),
    "paper": replace(
        PAPER,
        config={"projector": "mlp:hidden=2048:last_norm=scaled"},
        recipe=Recipe(
            optimizer="sgd",
            lr=4.8,
            betas=(0.9, 0.0),
            weight_decay=1e-6,
            warmup=0.1,
            epochs=100,
            batch_size=4096,
            precision="bfloat16",
        ),
    ),
}
