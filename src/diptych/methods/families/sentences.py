"""Base of methods that train an encoder of sentences: a text tower without images, and a contrastive
loss of several embeddings of each sentence.

Dimensions: B sentences, V views, C texts of a sample, L tokens, E embedding.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych import collectives
from diptych.data.batch import Batch, Tokens
from diptych.data.views import TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Method, Preset, Recipe, Stage
from diptych.methods.make import NO_TOWER, Make
from diptych.objectives.core import pair_losses
from diptych.spec import Dropout, Positive, Spec, parse
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

log = logging.getLogger(__name__)

_DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout",
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout_rate",
)  # fmt: skip
"""What transformers calls a dropout probability in the configs of its models."""


@dataclass(frozen=True, kw_only=True)
class SentenceConfig:
    """Options of methods on sentences.

    - `role` is the role of the sentences, or a mixture of roles (see `data.views.TextView`).
    - `tau` is the temperature.
    - `pooling` and `dropout` replace those of the text tower, also of a given model's.
    - `head` puts an MLP of one layer, tanh(W h + b), behind the embedding in training.
    """

    role: str = "caption"
    tau: Positive = 0.05
    pooling: Literal["first", "mean", "eot"] | None = None
    dropout: Dropout | None = None
    head: bool = True


class Sentences(Method):
    """An encoder of texts alone. `views` of a sentence are V passes of its tokens, which differ by
    dropout; a subclass defines `loss`.

    The head is used by `loss` alone: the delivered model embeds by the tower.
    """

    Config = SentenceConfig
    model: DualEncoder

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "evaluate {run} --data PAIRS --suite sts", "embed {run} SOURCE --out EMB"

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)

        def changed(spec: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
            return with_options(spec, pooling=config.pooling, dropout=config.dropout)

        self.model = make.text_encoder(
            logit_scale=Temperature(1 / config.tau, form="fixed"), changed=changed
        )
        width = self.model.embed_dim
        self.head = (
            nn.Sequential(nn.Linear(width, width), nn.Tanh()) if config.head else nn.Identity()
        )

    @property
    def scale(self) -> float:
        """The multiplier of cosines."""
        return 1 / self.config.tau

    def warn_of_no_dropout(self) -> None:
        """Warn if all passes of a sentence are equal, which makes them no views."""
        drops = (each.p for each in self.model.modules() if isinstance(each, nn.Dropout))
        if not any(drops) and collectives.rank() == 0:
            log.warning(
                "the text tower has no dropout, so the views of a sentence are equal; set --method.dropout 0.1"
            )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (TextView(tokenizer=self.make.tokenizer, role=self.config.role),)

    def embedded(self, tokens: Tokens, passes: int = 1) -> Tensor:
        """Return embeddings (B, passes, E) of the first text of each sample, not normalised, each of
        its own pass through dropout."""
        ids = tokens.ids[:, 0].repeat_interleave(passes, 0)
        lengths = tokens.lengths[:, 0].repeat_interleave(passes, 0)
        vectors = self.model.project_text(self.model.encode_text(ids, lengths).pooled)
        return vectors.unflatten(0, (-1, passes))

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return {"texts": self.encode}


def anchored(
    views: Tensor,
    scale: float,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    symmetric: bool = False,
) -> Tensor:
    """InfoNCE of the first view of each sentence with its other views.

        L = sum_{v ≥ 2} mean_i CE( scale · cos(o_1i, o_vj), target j = i )

    views (B, V, E) need no normalisation. The negatives of view v are those of other sentences in
    view v. `reduction="mean"` divides by V - 1. `symmetric` takes the mean with the direction from
    view v to the first. With two views it is SimCSE's loss (Gao et al. 2021).

    >>> first, second = torch.eye(2), torch.tensor([[1.0, 1], [0, 1]])
    >>> round(anchored(torch.stack([first, second], 1), 1.0).item(), 6)
    0.47911
    """
    first, *others = normalize(views, dim=-1).unbind(1)
    terms = []
    for other in others:
        terms.append(pair_losses(first, other, scale).mean())
        if symmetric:
            terms[-1] = (terms[-1] + pair_losses(other, first, scale).mean()) / 2
    total = torch.stack(terms).sum()
    return total / len(terms) if reduction == "mean" else total


def with_options(spec: str | Mapping[str, Any], **options: Any) -> str | Mapping[str, Any]:
    """Return the spec of a text tower with some options replaced; None leaves one as it is.

    Raises InputError for a dropout that the tower's config does not have.

    >>> with_options("text:depth=2:pooling=eot", pooling="mean", dropout=None)
    'text:depth=2:pooling=mean'
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(spec, str):
        parsed = parse(spec)
        return str(Spec(parsed.name, {**parsed.options, **given}))
    dropout = given.get("dropout")
    if "config" not in spec or dropout is None:
        return {**spec, **given}
    config = dict(spec["config"])  # of transformers
    names = [name for name in _DROPOUTS if name in config]
    if not names:
        raise InputError(
            f"the text tower ({config.get('model_type')}) names no dropout in its config; leave out --method.dropout"
        )
    given["config"] = {**config, **dict.fromkeys(names, dropout)}
    del given["dropout"]
    return {**spec, **given}


SMALL = Preset(
    image=NO_TOWER,
    text="text:width=128:depth=2:heads=4:causal=false:pooling=mean:dropout=0.1",
    tokenizer="bpe:vocab_size=4096:context=64",
    embed_dim=128,
    recipe=Recipe(lr=1e-3, weight_decay=0.0, warmup=0.1, clip=1.0, batch_size=64, epochs=3),
)
"""Two layers that learn from some thousand sentences in minutes on two cores."""

PAPER = Preset(
    image=NO_TOWER,
    text="hf:model_type=bert:width=768:depth=12:heads=12:dropout=0.1:pooling=first",
    tokenizer="wordpiece:vocab_size=30522:context=32",
    embed_dim=768,
    recipe=Recipe(
        lr=3e-5,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        schedule="linear",
        warmup=0,
        batch_size=64,
        epochs=1,
        clip=1.0,
    ),
)
"""BERT's base model, to start from with --init, and SimCSE's recipe."""


def tune(small: Preset, **config: Any) -> Preset:
    """Return the preset that continues a trained model: with dropout, which models for inference
    often lack, and at a low rate."""
    recipe = Recipe(lr=3e-5, weight_decay=0.0, warmup=0.1, clip=1.0, batch_size=64, epochs=1)
    return replace(small, config={**small.config, "dropout": 0.1, **config}, recipe=recipe)
