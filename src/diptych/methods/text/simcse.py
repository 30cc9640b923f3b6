"""SimCSE: Simple Contrastive Learning of Sentence Embeddings (Gao, Yao and Chen, EMNLP 2021).

A sentence and itself, in two passes with other dropout, are a pair; with labels a sentence, one that
it entails and one that it contradicts are a triple. Other sentences of the batch are negatives.

    unsupervised    L = mean_i -log [ exp(cos(o_i, o'_i) / tau) / Σ_j exp(cos(o_i, o'_j) / tau) ]
    supervised      L = mean_i -log [ exp(cos(o_i, p_i) / tau) / Σ_j ( exp(cos(o_i, p_j) / tau) + e_ij ) ]
                    e_ij = α_ij exp(cos(o_i, n_j) / tau)

o = tanh(W h + b) is a head of training on the embedding h; p and n are those of the positive and of
the hard negative. α_ij is 1 but for a sentence's own negative, where it is an option. Inference: h,
the pooled last layer, by its cosine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.families.sentences import (
    PAPER,
    SMALL,
    SentenceConfig,
    Sentences,
    anchored,
    tune,
)
from diptych.objectives.core import pair_losses
from diptych.spec import AtLeast, Positive

card = {
    "title": "SimCSE: Simple Contrastive Learning of Sentence Embeddings",
    "year": 2021,
    "kind": "method",
    "entry": "SimCSE",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(SentenceConfig):
    """Options beside those of all methods on sentences.

    - `passes` is the number of passes of a sentence; the first is the anchor of the others.
    - `positive` is the role of texts that mean the same as the sentence; with it training is
      supervised.
    - `negative` is the role of hard negatives, whose weight for their own sentence is
      `negative_weight`.
    """

    passes: Annotated[int, AtLeast(2)] = 2
    positive: str | None = None
    negative: str | None = None
    negative_weight: Positive = 1.0

    def __post_init__(self) -> None:
        if self.negative and not self.positive:
            raise InputError(
                f"negative={self.negative} needs a positive; name its role with --method.positive"
            )
        if self.positive and self.passes > 2:
            raise InputError(
                f"passes={self.passes} are of one sentence, and positive={self.positive} gives it another view; "
                "leave one out"
            )


class SimCSE(Sentences):
    """Pairs by dropout, or pairs and triples of the data."""

    Config = Config

    def setup(self, sources: Mapping[str, Any]) -> None:
        if not self.config.positive:
            self.warn_of_no_dropout()

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        roles = {"main": config.role, "positive": config.positive, "negative": config.negative}
        return [
            TextView(tokenizer=self.make.tokenizer, name=name, role=role)
            for name, role in roles.items()
            if role
        ]

    def encode(self, batch: Batch, at: At) -> Features:
        if not self.config.positive:
            return {"views": self.embedded(batch.text, self.config.passes)}
        return {"views": torch.cat([self.embedded(each) for each in batch.texts.values()], 1)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        views = self.head(features["views"])
        if self.config.negative:
            return Losses({"triples": triples(views, self.scale, self.config.negative_weight)})
        return Losses({"views": anchored(views, self.scale)})


def triples(views: Tensor, scale: float, weight: float = 1.0) -> Tensor:
    """The supervised loss of sentences, positives and hard negatives, views (B, 3, E).

    `weight` is that of a sentence's own negative in its normaliser; others have 1.

    >>> views = torch.stack([torch.eye(2), torch.eye(2), torch.eye(2).flip(1)], 1)
    >>> round(triples(views, 1.0).item(), 6)  # log(e + 1 + 1 + e) - 1
    1.006409
    """
    anchor, positive, negative = normalize(views, dim=-1).unbind(1)
    own = torch.eye(len(anchor), dtype=anchor.dtype, device=anchor.device)
    weights = torch.cat([torch.ones_like(own), 1 + (weight - 1) * own], 1)
    columns = torch.cat([positive, negative])
    return pair_losses(anchor, columns, scale, allowed=None if weight == 1 else weights).mean()


SimCSE.presets = {"small": SMALL, "paper": PAPER, "tune": tune(SMALL)}
