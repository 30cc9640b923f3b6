"""Contrastive search (Su and Collier, 2023), and the training that makes a model fit for it: SimCTG
(Su et al., 2022).

**Decoding.** Of the k most probable next tokens the one is chosen that is probable and unlike all
that was read before:

    x_t = argmax_v  (1 - alpha) p(v | x_<t) - alpha max_{j < t} cos(h_v, h_j)

This is the strategy `contrastive` of `models.strategies`, of any language model. It needs states h
that point in different directions, which the suite `isotropy` measures.

**Training.** Beside the language model's loss, each token's state is pushed away from those of all
other tokens of its text:

    L = L_LM + weight · L_CL,
    L_CL = Σ_texts Σ_{i ≠ j} max(0, rho - cos(h_i, h_i) + cos(h_i, h_j)) / number of such ordered pairs,

where cos(h_i, h_i) = 1. At rho = 1 it is 1 - isotropy if no cosine is negative. Equal words at two
places are negatives of each other, as published. i and j run over the tokens that predict another
one: all but the end of a text. [choice] Inference: `model.generate(prompts, strategy="contrastive")`.

Sources: the papers, and what was read of the authors' code (SimCTG, and the repository of
contrastive search).

Dimensions: B texts, L tokens of a text, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.dtypes import at_least_float32
from diptych.methods.base import At, Features, Losses, Preset, Recipe
from diptych.methods.make import NO_TOWER
from diptych.methods.text.language_model import Config as LanguageConfig
from diptych.methods.text.language_model import LanguageModelling
from diptych.spec import AtLeast, AtMost, NotNegative

card = {
    "title": "Contrastive Search Is What You Need For Neural Text Generation",
    "year": 2023,
    "kind": "method",
    "entry": "SimCTG",
    "provenance": "code",
    "abilities": {"generate": ""},
}


@dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """`rho` is the margin: cosines above 1 - rho are pushed down. `weight` is that of the contrastive
    loss."""

    rho: Annotated[float, AtLeast(0), AtMost(2)] = 0.5
    weight: NotNegative = 1.0


class SimCTG(LanguageModelling):
    """The log-loss of tokens and the cosine margin loss of their states."""

    Config = Config

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite perplexity,isotropy",
            "generate {run} 'SOME WORDS' --strategy contrastive:k=5:alpha=0.6",
        )

    def encode(self, batch: Batch, at: At) -> Features:
        ids, lengths = batch.text.flat
        cut = (lengths == self.make.tokenizer.context).long()
        hidden = self.model(ids)
        log_prob = self.model.log_probs_of(hidden, ids, lengths - cut).sum(1)
        predicts = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None] - 1
        margins, pairs = cosine_margins(hidden, predicts, self.config.rho)
        return {
            "log_prob": log_prob,
            "tokens": lengths - cut - 1,
            "margins": margins,
            "pairs": pairs,
        }

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        found = super().loss(features, batch, at)
        contrast = features["margins"].sum() / features["pairs"].sum().clamp(min=1)
        terms = {**found.terms, "contrast": self.config.weight * contrast}
        return Losses(terms, logged=found.logged)


def cosine_margins(hidden: Tensor, mask: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """The sum of max(0, rho - 1 + cos(h_i, h_j)) over ordered pairs i ≠ j of the real tokens of each
    text (B,), and the number of pairs (B,); hidden is (B, L, D), the mask (B, L) True at real ones.

    >>> hidden = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 1.0]]])
    >>> total, pairs = cosine_margins(hidden, torch.ones(1, 4, dtype=torch.bool), rho=0.5)
    >>> round(float(total / pairs), 6)
    0.217361
    """
    with torch.autocast(hidden.device.type, enabled=False):
        unit = normalize(at_least_float32(hidden), dim=-1)
        margins = (rho - 1 + unit @ unit.mT).clamp(min=0)
        other = ~torch.eye(hidden.shape[1], dtype=torch.bool, device=hidden.device)
        counted = mask[:, :, None] & mask[:, None] & other
        return torch.where(counted, margins, 0.0).sum((1, 2)), counted.sum((1, 2))


_SMALL = LanguageModelling.presets["small"]

SimCTG.presets = {
    "small": _SMALL,
    "paper": Preset(
        image=NO_TOWER,
        text="text:width=768:depth=12:heads=12:activation=gelu_tanh:dropout=0.1",
        tokenizer="bpe:vocab_size=50257:context=256",
        embed_dim=0,
        recipe=Recipe(
            lr=2e-5,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            schedule="linear",
            warmup=0.0,
            clip=1.0,
            batch_size=128,
            steps=40_000,
        ),
    ),
    "tune": Preset(
        image=NO_TOWER,
        text=_SMALL.text,
        tokenizer=_SMALL.tokenizer,
        embed_dim=0,
        recipe=Recipe(lr=2e-5, weight_decay=0.0, warmup=0.0, clip=1.0, batch_size=128, epochs=3),
    ),
}
