"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., ICLR 2022), on the towers of a
dual encoder.

Each chosen weight W is frozen, and the product of two low-rank matrices is added to it; only these
are trained:

    y = W x + (alpha / r) B A x,   A (r, D) random, B (D', r) zero at the start

The class embeddings come from the class names in a prompt, as for zero-shot:

    L = mean_i CE(s <x_i, t_c>, c = y_i)

The layers are those of peft. Inference: the same, with any names.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from diptych.errors import InputError
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.classifier import Classifier
from diptych.spec import Count, Dropout
from diptych.towers.dual import DualEncoder

card = {
    "title": "LoRA: Low-Rank Adaptation, on both towers",
    "year": 2022,
    "kind": "method",
    "entry": "LoRA",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(ClassifyConfig):
    """`rank` is r, `alpha` its numerator, `dropout` the dropout before A. `layers` are the linear
    layers of each block, joined by `+`; `towers` are the towers that have them."""

    rank: Count = 8
    alpha: float = 16.0
    dropout: Dropout = 0.0
    layers: str = "q+v"
    towers: str = "image+text"

    def __post_init__(self) -> None:
        for name in self.towers.split("+"):
            if name not in ("image", "text"):
                raise InputError(f"towers is {self.towers!r}; join image and text by +")


class LowRank(Classifier):
    """A classifier with low-rank products beside its encoder's weights. After loading they are
    merged into the weights, so that the encoder is an ordinary one to embed with, to export and to
    start from."""

    def merge(self) -> None:
        from peft.tuners.lora import LoraLayer

        for parent in list(self.encoder.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, LoraLayer):
                    layer.merge()  # type: ignore[attr-defined]  # of the linear ones
                    setattr(parent, name, layer.get_base_layer())


class LoRA(Classify):
    """Low-rank products beside the weights of the blocks."""

    Config = Config

    def build(self, encoder: DualEncoder) -> Classifier:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise InputError(
                "lora needs peft; install it with: pip install 'diptych[language]'"
            ) from None
        config = self.config
        classifier = LowRank(encoder, self.make.tokenizer, config.template)
        wanted = set(config.layers.split("+"))
        for name in config.towers.split("+"):
            tower: Any = getattr(encoder, name)
            found = {
                path.rpartition(".")[2]
                for path, module in tower.named_modules()
                if isinstance(module, nn.Linear)
            }
            if missing := wanted - found:
                raise InputError(
                    f"the {name} tower has no linear layer {sorted(missing)[0]!r}; there are "
                    f"{', '.join(sorted(found))}: name them with --method.layers"
                )
            options = LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=sorted(wanted),
            )
            inject_adapter_in_model(options, tower)
        return classifier


LoRA.presets = {
    "small": replace(
        SMALL, recipe=replace(SMALL.recipe, optimizer="adamw", betas=(0.9, 0.999), lr=2e-3)
    ),
    # The paper's recipes are for language models; [choice] a rate for few images.
    "paper": replace(
        PAPER,
        recipe=replace(PAPER.recipe, optimizer="adamw", betas=(0.9, 0.999), lr=2e-4, batch_size=32),
    ),
}
