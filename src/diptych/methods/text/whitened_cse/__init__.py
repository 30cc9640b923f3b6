"""WhitenedCSE: Whitening-based Contrastive Learning of Sentence Embeddings (Zhuo, Sun, Wang, Zhu and
Yang, ACL 2023).

SimCSE with V passes of each sentence. Before the head of training the embeddings of each view are
whitened in groups of channels, and every view is grouped anew, at random: whitening spreads the
sentences of a batch evenly, and different groupings of a sentence are more positives.

    z_v = W_{π_v}(h_v)              each view v its own permutation π_v of the channels, the same for all of its rows
    o_v = tanh(A z_v + b)
    L   = sum_{v ≥ 2} mean_i CE( cos(o_1i, o_vj) / tau, target j = i )

`whitening.group_whitening` has W. It is computed in float64 and, as in the released code, without a
gradient through the whitening matrix. Inference: h, by its cosine; nothing is whitened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.families.sentences import (
    PAPER,
    SMALL,
    SentenceConfig,
    Sentences,
    anchored,
    tune,
)
from diptych.methods.make import Make
from diptych.methods.text.whitened_cse.whitening import Engine, check, group_whitening
from diptych.spec import AtLeast, Count, NotNegative

card = {
    "title": "WhitenedCSE: Whitening-based Contrastive Learning of Sentence Embeddings",
    "year": 2023,
    "kind": "method",
    "entry": "WhitenedCSE",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(SentenceConfig):
    """Options beside those of all methods on sentences.

    - `passes` is the number of views V of a sentence.
    - `groups` is the number of groups of channels G, which must divide the embedding's. With 1 all
      channels are whitened together; with as many as channels each is standardised.
    - `grouping` is "shuffled", each view by its own permutation; "shared", all views of a step by one;
      or "fixed", always channels in a row.
    - `layout="flat"` whitens as the released code does: its rows are the views of the first
      sentence, then those of the second, cut into V parts, each of which has its own permutation.
    - `engine` computes the whitening matrix (`whitening.group_whitening`), and `eps` is added to the
      diagonal of covariances.
    - `detach_whitening` stops gradients through the whitening matrix.
    - `reduction` and `symmetric` are those of `families.sentences.anchored`.
    """

    passes: Annotated[int, AtLeast(2)] = 3
    groups: Count = 128
    grouping: Literal["shuffled", "shared", "fixed"] = "shuffled"
    layout: Literal["views", "flat"] = "views"
    engine: Engine = "zca"
    eps: NotNegative = 1e-5
    detach_whitening: bool = True
    reduction: Literal["sum", "mean"] = "sum"
    symmetric: bool = False


class WhitenedCSE(Sentences):
    """SimCSE on whitened embeddings."""

    Config = Config
    test_options: ClassVar[dict[str, Any]] = {"groups": 16}

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        width = self.model.embed_dim
        check(width + 1, width, config.groups)

    def setup(self, sources: Mapping[str, Any]) -> None:
        self.warn_of_no_dropout()

    def stages(self) -> tuple[Stage]:
        return (Stage(min_batch=max(2, self.model.embed_dim // self.config.groups + 1)),)

    def encode(self, batch: Batch, at: At) -> Features:
        return {"views": self.embedded(batch.text, self.config.passes)}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        # here, not in `encode`: whitening mixes the samples of all ranks, which draw equal permutations
        config = self.config
        white = self.whitened(features["views"])
        found = anchored(
            self.head(white), self.scale, reduction=config.reduction, symmetric=config.symmetric
        )
        return Losses({"views": found})

    def whitened(self, views: Tensor) -> Tensor:
        """Return views (B, V, E), each whitened over the samples; permutations are drawn from torch's
        generator."""
        config = self.config
        count, passes, width = views.shape
        # the rows of a part are whitened together
        parts = views.flatten(0, 1).unflatten(0, (passes, count))
        if config.layout == "views":
            parts = views.transpose(0, 1)
        found = [
            group_whitening(
                part,
                config.groups,
                order,
                eps=config.eps,
                engine=config.engine,
                detach=config.detach_whitening,
            )
            for part, order in zip(parts, self._orders(passes, width), strict=True)
        ]
        white = torch.stack(found)
        if config.layout == "views":
            return white.transpose(0, 1)
        return white.flatten(0, 1).unflatten(0, (count, passes))

    def _orders(self, passes: int, width: int) -> list[Tensor | None]:
        """The permutation of the channels of each view, None for that in a row."""
        match self.config.grouping:
            case "shuffled":
                return [torch.randperm(width) for _ in range(passes)]
            case "shared":
                return [torch.randperm(width)] * passes
            case _:
                return [None] * passes


WhitenedCSE.presets = {
    "small": replace(SMALL, config={"groups": 32}),
    "paper": replace(PAPER, recipe=replace(PAPER.recipe, lr=1e-5, batch_size=128)),
}
WhitenedCSE.presets = {**WhitenedCSE.presets, "tune": tune(WhitenedCSE.presets["small"])}
