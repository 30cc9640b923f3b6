"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., ICML 2020).

Two augmentations of each picture find each other among all of the batch's others:

    L = mean over the 2B views of -log [ exp(z_i·z_j / tau) / Σ_{k≠i} exp(z_i·z_k / tau) ],   j the partner of i

z are unit vectors behind a projector of two layers. Inference: the tower before the projector.
"""

from dataclasses import dataclass

from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Preset, Recipe
from diptych.methods.make import NO_TOWER
from diptych.methods.pictures import SMALL_AUGMENT, SMALL_RECIPE, SMALL_TOWER, Pictures, PicturesConfig
from diptych.objectives import nt_xent

card = {
    "title": "A Simple Framework for Contrastive Learning of Visual Representations",
    "year": 2020,
    "kind": "method",
    "entry": "SimCLR",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(PicturesConfig):
    """`tau` is the temperature."""

    projector: str = "mlp:hidden=2048:last_norm=scaled"
    tau: float = 0.1

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise InputError(f"tau is {self.tau}; it must be above 0")


class SimCLR(Pictures):
    """NT-Xent of two views."""

    Config = Config

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        one, other = normalize(features["views"], dim=-1).unbind(1)
        return Losses({"nt_xent": nt_xent(one, other, self.config.tau)})


SimCLR.presets = {
    "small": Preset(
        config={"augment": SMALL_AUGMENT, "projector": "mlp:hidden=256:last_norm=scaled", "tau": 0.5},
        image=SMALL_TOWER, text=NO_TOWER, embed_dim=128, recipe=SMALL_RECIPE,
    ),
    "paper": Preset(
        config={"projector": "mlp:hidden=2048:last_norm=scaled"},
        image="timm:resnet50:image_size=224", text=NO_TOWER, embed_dim=128,
        recipe=Recipe(optimizer="sgd", lr=4.8, betas=(0.9, 0.0), weight_decay=1e-6, warmup=0.1, epochs=100,
                      batch_size=4096, precision="bfloat16"),
    ),
}  # fmt: skip
