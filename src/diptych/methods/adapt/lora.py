"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., ICLR 2022), on the towers of a
dual encoder.

Each chosen weight W is frozen, and the product of two low-rank matrices is added to it; only these
are trained (`methods.adapters`):

    y = W x + (alpha / r) B A x,   A (r, D) random, B (D', r) zero at the start

On classes, the class embeddings come from the class names in a prompt, as for zero-shot; on pairs
the loss is CLIP's (`families.tuned`). Inference: the same, with any names. Saved weights contain the
products.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from diptych.methods.adapters import RATE, LowRank, is_adapted, merged
from diptych.methods.base import Stage
from diptych.methods.families import pairs
from diptych.methods.families.few_shot import PAPER, SMALL
from diptych.methods.families.tuned import TunedConfig, TunedOnClasses, TunedOnPairs
from diptych.methods.make import Make
from diptych.methods.tuning import layer_rates
from diptych.models.classifier import Classifier
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze

card = {
    "title": "LoRA: Low-Rank Adaptation, on both towers",
    "year": 2022,
    "kind": "method",
    "entry": "LoRA",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(TunedConfig, LowRank):
    """The options of both kinds of data, and those of the adapter."""

    def __post_init__(self) -> None:
        TunedConfig.__post_init__(self)
        LowRank.__post_init__(self)


class LowRankClassifier(Classifier):
    """A classifier whose encoder has an adapter in training."""

    def __init__(self, encoder: DualEncoder, make: Make, config: Config):
        super().__init__(encoder, make.tokenizer, config.template, frozen=False)
        freeze(encoder.logit_scale, encoder.logit_bias)
        self._adapter = config

    def current(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # files of early runs hold the factors
        return dict(state) if is_adapted(self) else merged(state, self._adapter)


class LoRAOnPairs(TunedOnPairs):
    """Low-rank products, trained on pairs."""


class LoRA(TunedOnClasses):
    """Low-rank products beside the weights of the blocks, trained on classes."""

    Config = Config
    on_pairs = LoRAOnPairs

    @classmethod
    def adapter(cls, config: Any) -> LowRank:
        return config

    def build(self, encoder: DualEncoder) -> Classifier:
        return LowRankClassifier(encoder, self.make, self.config)

    def stages(self) -> Sequence[Stage]:
        scale: dict[str, float] = {}
        for name in self.config.towers.split("+"):
            tower = getattr(self.encoder, name)
            scale |= layer_rates(f"model.encoder.{name}", tower, self.config.decay)
        return (Stage(lr_scale=scale, min_batch=1),)


TUNE = pairs.tune(SMALL, on="pairs", decay=1.0)

LoRA.presets = {
    "small": replace(
        SMALL, recipe=replace(SMALL.recipe, optimizer="adamw", betas=(0.9, 0.999), lr=2e-3)
    ),
    # The paper's recipes are for language models; [choice] a rate for few images.
    "paper": replace(
        PAPER,
        recipe=replace(PAPER.recipe, optimizer="adamw", betas=(0.9, 0.999), lr=2e-4, batch_size=32),
    ),
    "tune": replace(TUNE, recipe=replace(TUNE.recipe, lr=RATE * TUNE.recipe.lr)),
}
