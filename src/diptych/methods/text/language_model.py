"""A causal language model, trained by maximum likelihood on texts alone.

The plain decoder that captioners and decoding methods build on: it predicts each token from those
before it, and its output layer is tied to the embedding table (`models.causal_lm`).

    L = - Σ_texts Σ_t log p(x_t | x_1 … x_{t-1})  /  Σ_texts number of tokens predicted

over the global batch. This is a mean over tokens, which counts the end of a text but not the start.
A text that fills the context may have been cut, so its end is not trained on. [choice] Inference:
`model.generate(prompts)`, `model.log_prob(texts)`. `paper` has the shape of GPT-2's smallest model
(Radford et al., 2019), with a different vocabulary and a recipe of our choice; it reproduces no
paper's result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diptych.data.batch import Batch
from diptych.data.views import TextView, View
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import NO_TOWER, Make
from diptych.models.causal_lm import CausalLM

card = {
    "title": "Causal language model, by maximum likelihood (the shape of GPT-2)",
    "year": 2019,
    "kind": "method",
    "entry": "LanguageModelling",
    "provenance": "paper",
    "abilities": {"generate": ""},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """`role` is the role of the texts, or a mixture of roles (see `data.views.TextView`)."""

    role: str = "caption"


class LanguageModelling(Method):
    """The mean log-loss of a batch's tokens."""

    Config = Config
    model: CausalLM

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "evaluate {run} --data {data} --suite perplexity", "generate {run} 'SOME WORDS'"

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.model = make.lm()

    def stages(self) -> Sequence[Stage]:
        return (Stage(min_batch=1),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (TextView(tokenizer=self.make.tokenizer, role=self.config.role),)

    def encode(self, batch: Batch, at: At) -> Features:
        ids, lengths = batch.text.flat
        cut = lengths == self.make.tokenizer.context
        found = self.model.log_prob(ids, lengths - cut.long())
        return {"log_prob": found, "tokens": lengths - cut.long() - 1}

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return {"texts": self.encode}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        loss = -features["log_prob"].sum() / features["tokens"].sum()
        return Losses({"log_loss": loss}, logged={"perplexity": torch.exp(loss.detach())})


LanguageModelling.presets = {
    "small": Preset(
        image=NO_TOWER,
        text="text:width=128:depth=4:heads=4",
        tokenizer="bpe:vocab_size=4096:context=128",
        embed_dim=0,
        recipe=Recipe(optimizer="muon", lr=4e-3, warmup=0.1, clip=1.0, batch_size=32, epochs=3),
    ),
    "paper": Preset(
        image=NO_TOWER,
        text="text:width=768:depth=12:heads=12:activation=gelu_tanh:dropout=0.1",
        tokenizer="bpe:vocab_size=50257:context=1024",
        embed_dim=0,
        recipe=Recipe(
            lr=6e-4,
            betas=(0.9, 0.95),
            warmup=2000,
            min_lr=0.1,
            clip=1.0,
            batch_size=512,
            epochs=1,
            precision="bfloat16",
        ),
    ),
}
