"""SupCon: Supervised Contrastive Learning (Khosla et al., NeurIPS 2020).

All views of all images of a class are positives of each other:

    L = mean over the 2B views of -1/|P(i)| Σ_{p in P(i)} log [ exp(z_i·z_p / tau) / Σ_{k≠i} exp(z_i·z_k / tau) ]

P(i) are the other views with the same label (L_out: the mean is outside the logarithm). If an
image's label is missing, its other view is its only positive. z are unit vectors behind a projector
of two layers. Inference: the tower before the projector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import LabelView, View
from diptych.methods.base import At, Features, Losses, Recipe, Stage
from diptych.methods.families.image_only import PAPER, SMALL, ContrastiveConfig, ImageOnly
from diptych.objectives import supervised
from diptych.spec import NetworkSpec

card = {
    "title": "Supervised Contrastive Learning",
    "year": 2020,
    "kind": "method",
    "entry": "SupCon",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(ContrastiveConfig):
    """`label` names the label; samples with equal values are positives."""

    projector: NetworkSpec = "mlp:hidden=2048"
    label: str = "class"


class SupCon(ImageOnly):
    """Supervised contrastive loss over views with the same label."""

    Config = Config

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (*super().views(stage, stream), LabelView(label=self.config.label, name="label"))

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        views = normalize(features["views"], dim=-1).transpose(0, 1)
        return Losses({"supervised": supervised(views, batch.fields["label"], self.config.tau)})  # type: ignore[arg-type]


SupCon.presets = {
    "small": replace(SMALL, config={**SMALL.config, "projector": "mlp:hidden=256"}),
    "paper": replace(
        PAPER,
        config={"projector": "mlp:hidden=2048"},
        recipe=Recipe(
            optimizer="sgd",
            lr=0.8,
            betas=(0.9, 0.0),
            weight_decay=1e-4,
            warmup=0.03,
            epochs=350,
            batch_size=6144,
            precision="bfloat16",
        ),
    ),
}
