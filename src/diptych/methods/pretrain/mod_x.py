"""Mod-X: Continual Vision-Language Representation Learning with Off-Diagonal Information (Ni et
al., ICML 2023).

CLIP is trained on one domain after another. From the second phase on, a frozen copy of the model
from the end of the previous phase computes the cosine matrix of the new pairs. The new model keeps
the distribution of the rows that the old one got right:

    L = L_CLIP + alpha · L_dist,   L_dist = ½ [ Σ_i KL(softmax M'_i || softmax M_i) + the same of the columns ]

M (B, B) are the raw cosines of the batch and M' those of the copy. The softmax has temperature 1
and includes the diagonal; the sum is over the rows whose largest entry in M' is the partner. Data
of earlier phases are not shown again. Each phase has a new optimiser and schedule. Inference: plain
CLIP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from diptych.data.batch import Batch
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.pairs import SMALL, tune
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.clip import Config as CLIPConfig
from diptych.objectives.distillation import off_diagonal
from diptych.spec import Count, NotNegative
from diptych.towers.nn.parts import Momentum

card = {
    "title": "Continual Vision-Language Representation Learning with Off-Diagonal Information",
    "year": 2023,
    "kind": "method",
    "entry": "ModX",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(CLIPConfig):
    """`phases` is the number of domains; their streams, in order, are `train`, `phase1`, `phase2`,
    …. The first phase is plain CLIP, unless `pretrained` says that the model given by `--init`
    comes from an earlier phase. `alpha` weighs the distillation; `screen`, `include_diagonal` and
    `reduction` are those of `objectives.distillation.off_diagonal`."""

    phases: Count = 2
    pretrained: bool = False
    alpha: NotNegative = 20.0
    screen: bool = True
    include_diagonal: bool = True
    reduction: Literal["sum", "mean"] = "sum"

    several: ClassVar[bool] = False


class ModX(CLIP):
    """CLIP trained in phases, each distilled from the model of the previous phase."""

    Config = Config
    features_from = (
        Method.features_from
    )  # the loss reads more than images and texts, so it cannot be added to another method

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.old = Momentum(self.model, m=1.0)  # changes only where a phase begins

    @classmethod
    def continues(cls, options: Mapping[str, Any]) -> bool:
        return bool(options.get("pretrained"))  # from random weights it would distil noise

    def stages(self) -> Sequence[Stage]:
        [whole] = super().stages()
        names = ["train", *(f"phase{number}" for number in range(1, self.config.phases))]
        return [
            replace(
                whole,
                name=name,
                streams=(name,),
                prepare=self._keep if self._distilled(name) else None,
            )
            for name in names
        ]

    def _distilled(self, stage: str) -> bool:
        return stage != "train" or self.config.pretrained

    def _keep(self, run: Any) -> None:
        """Before a phase: copy the current model to the old one."""
        self.old.update(0.0)

    def _encode_images(self, batch: Batch, at: At) -> Features:
        old: Any = self.old.module
        kept = (
            {"old_image": old.embed_images(batch.image.flat)} if self._distilled(at.stage) else {}
        )
        return {**super()._encode_images(batch, at), **kept}

    def _encode_texts(self, batch: Batch, at: At) -> Features:
        old: Any = self.old.module
        kept = {"old_text": old.embed_texts(*batch.text.flat)} if self._distilled(at.stage) else {}
        return {**super()._encode_texts(batch, at), **kept}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        losses = super().loss(features, batch, at)
        if not self._distilled(at.stage):
            return losses
        names = ("image", "text", "old_image", "old_text")
        options = {
            name: getattr(self.config, name) for name in ("screen", "include_diagonal", "reduction")
        }
        distance: Tensor = off_diagonal(*(features[name] for name in names), **options)
        kept = {"distillation": self.config.alpha * distance}
        return Losses({**losses.terms, **kept}, {**losses.logged, "distance": distance.detach()})


ModX.presets = {
    "small": replace(
        SMALL, config={**SMALL.config, "scale": 5.0}, recipe=replace(SMALL.recipe, epochs=10)
    ),
    "paper": Preset(
        config={"phases": 6, "augment": None},
        image="timm:resnet50_clip:image_size=224",
        text="text:width=512:depth=6:heads=8",
        tokenizer="clip",
        embed_dim=1024,
        recipe=Recipe(
            lr=5e-4,
            weight_decay=0.1,
            betas=(0.9, 0.999),
            eps=1e-8,
            warmup=0.2,
            epochs=35,
            batch_size=280,
        ),
    ),
}
ModX.presets = {**ModX.presets, "tune": tune(ModX.presets["small"])}
