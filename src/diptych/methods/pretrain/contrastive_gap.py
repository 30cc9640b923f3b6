"""It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap (Fahim et al., arXiv
2024).

The image and text embeddings of a CLIP model are separated because its loss, at a small
temperature, leaves part of the space unused. Terms that spread each modality and pull partners
together close the gap.

    L_CUA = L_clip + [U(X) + U(Y)] / 2 + A(X, Y),      L_CUAXU = L_CUA + U(X, Y),      tau = 0.01 fixed

    U(X) = log mean_{i<j} exp(-2 |x_i - x_j|²)   U(X, Y) = log mean_{i≠j} exp(-2 |x_i - y_j|²)   A = mean_i |x_i - y_i|²

X, Y (B, E) are unit-norm embeddings. The terms are negative where points are spread out, so the
loss may be negative too. Inference is CLIP's. The temperature may be learned; it is logged because
it changes the gap.

The published code computes every term within a rank, and its recipe has one rank of 64 pairs. Here
the terms see the whole batch, as in all methods; `local` instead computes them within parts of the
batch of that many pairs, on any number of ranks. [choice]
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from diptych.errors import InputError
from diptych.methods.base import Features, Preset, Recipe
from diptych.methods.families.pairs import SMALL, PairConfig, Pairs, tune
from diptych.methods.make import Make
from diptych.objectives import alignment, cross_uniformity, info_nce, uniformity
from diptych.spec import AtLeast, Count, Positive
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

card = {
    "title": "It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap",
    "year": 2024,
    "kind": "method",
    "entry": "ContrastiveGap",
    "provenance": "code",
}

Mode = Literal["clip", "cua", "cuaxu"]


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """Options of the loss.

    - `mode` names the loss; `remove_contrastive` leaves L_clip out of it.
    - `uniform`, `align` and `cross` weigh the terms (1, as published); `t` is the width of the
      potential.
    - `learned` makes `tau` trainable, up to a scale of 100.
    - `reproject` replaces the projections of a given model by new ones of this many dimensions.
    - `local`: see the module's docstring.

    For identical texts in a batch, uniformity and alignment conflict: set `distinct` to a label
    that distinguishes them.
    """

    mode: Mode = "cua"
    remove_contrastive: bool = False
    uniform: float = 1.0
    align: float = 1.0
    cross: float = 1.0
    t: float = 2.0
    tau: Positive = 0.01
    learned: bool = False
    reproject: Count | None = None
    local: Annotated[int, AtLeast(2)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "clip" and self.remove_contrastive:
            raise InputError(
                "mode 'clip' has no term but the contrastive one; keep it, or choose mode 'cua' or 'cuaxu'"
            )


class ContrastiveGap(Pairs):
    """CLIP's loss at a fixed temperature, with uniformity, alignment and, in mode "cuaxu",
    cross-modal uniformity."""

    Config = Config

    @classmethod
    def continues(cls, options: Mapping[str, Any]) -> bool:
        return options.get("reproject") is not None  # it replaces the given projections

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        scale = Temperature(
            1 / config.tau, "exp" if config.learned else "fixed", (1.0, max(100.0, 1 / config.tau))
        )
        self.model = make.dual(logit_scale=scale)
        if not config.learned:
            self.model.logit_scale = scale  # a given model's own scale is learned
        if config.reproject is not None:
            self.model = DualEncoder(
                self.model.image,
                self.model.text,
                config.reproject,
                logit_scale=self.model.logit_scale,
            )

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        parts = -(-len(image) // (self.config.local or len(image)))
        found = [
            self._of_part(*pair)
            for pair in zip(image.tensor_split(parts), text.tensor_split(parts), strict=True)
        ]
        return {name: torch.stack([part[name] for part in found]).mean() for name in found[0]}

    def logged(self, features: Features) -> Mapping[str, Tensor | float]:
        gap = (features["image"].detach().mean(0) - features["text"].detach().mean(0)).norm()
        return {"scale": self.model.logit_scale(), "centroid_distance": gap}

    def _of_part(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        config = self.config
        terms = {}
        if not config.remove_contrastive:
            terms["contrastive"] = info_nce(image, text, self.model.logit_scale())
        if config.mode != "clip":
            terms["alignment"] = config.align * alignment(image, text)
            terms["uniformity"] = (
                config.uniform * (self._spread(image, image) + self._spread(text, text)) / 2
            )
        if config.mode == "cuaxu":
            terms["cross_uniformity"] = config.cross * self._spread(image, text)
        return terms

    def _spread(self, x: Tensor, y: Tensor) -> Tensor:
        if len(x) < 2:  # a plan may leave a single pair over, which has no others to spread from
            return 0 * x.sum()
        return uniformity(x, self.config.t) if y is x else cross_uniformity(x, y, self.config.t)


ContrastiveGap.presets = {
    # At tau = 0.01 the contrastive term must come near 0 before the others have an effect, so
    # images are not augmented: the ramp of augmentation begins where training ends.
    "small": replace(
        SMALL,
        config={"augment": {"ramp": (1.0, 1.0)}},
        embed_dim=64,
        recipe=replace(SMALL.recipe, batch_size=64, epochs=10),
    ),
    # Starts from OpenAI's CLIP, given by --init, with new projections: d = 32, 64 or 128 in the
    # paper.
    "paper": Preset(
        config={"reproject": 128},
        image="vit:image_size=224:patch=32:width=768:depth=12:heads=12:pre_norm=true",
        text="text:width=512:depth=12:heads=8",
        tokenizer="clip",
        embed_dim=128,
        recipe=Recipe(
            lr=1e-6,
            betas=(0.9, 0.99),
            eps=1e-8,
            weight_decay=0.1,
            schedule="constant",
            warmup=0,
            epochs=9,
            batch_size=64,
        ),
    ),
}
ContrastiveGap.presets = {**ContrastiveGap.presets, "tune": tune(ContrastiveGap.presets["small"])}
