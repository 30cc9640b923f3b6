"""DCL: Decoupled Contrastive Learning (Yeh et al., ECCV 2022).

SimCLR's loss without the positive in its normaliser, so that the gradient does not vanish for easy
pairs and small batches suffice:

    L = mean over the 2B views of -w_i z_i·z_j / tau + log Σ_{k≠i,j} exp(z_i·z_k / tau),   j the partner of i

w_i = 1, or with `sigma` (DCLW) 2 - exp(z_i·z_j / sigma) / mean_i exp(z_i·z_j / sigma). z are unit
vectors behind a projector of two layers. Inference: the tower before the projector.
"""

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.methods.base import At, Features, Losses, Recipe
from diptych.methods.families.image_only import PAPER, SMALL, ContrastiveConfig, ImageOnly
from diptych.objectives import dcl
from diptych.spec import NetworkSpec, Positive

card = {
    "title": "Decoupled Contrastive Learning",
    "year": 2022,
    "kind": "method",
    "entry": "DCL",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(ContrastiveConfig):
    """`sigma` is the temperature of DCLW's weights; None sets all weights to 1."""

    projector: NetworkSpec = "mlp:hidden=2048:last_norm=scaled"
    sigma: Positive | None = None


class DCL(ImageOnly):
    """NT-Xent without the positive in the normaliser."""

    Config = Config

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        one, other = normalize(features["views"], dim=-1).unbind(1)
        loss: Tensor = dcl(one, other, self.config.tau, sigma=self.config.sigma)
        return Losses({"decoupled": loss})


DCL.presets = {
    "small": replace(
        SMALL, config={**SMALL.config, "projector": "mlp:hidden=256:last_norm=scaled", "tau": 0.5}
    ),
    "paper": replace(
        PAPER,
        config={"projector": "mlp:hidden=2048:last_norm=scaled"},
        recipe=Recipe(
            optimizer="sgd",
            lr=0.03,
            betas=(0.9, 0.0),
            weight_decay=1e-4,
            warmup=0.05,
            epochs=200,
            batch_size=256,
        ),
    ),
}
