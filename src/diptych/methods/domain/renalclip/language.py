"""A causal language model as the start of the text tower: attention becomes bidirectional, a text is
the mean of its tokens, and a mask joins the vocabulary where there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer, from_dict
from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models.language import LanguageModel
from diptych.towers.text.text import TextTower

BOTH_WAYS = {"causal": False, "pooling": "mean"}


@dataclass(frozen=True, kw_only=True)
class Start:
    """The text tower's spec, width and weights, and the tokenizer. `output` is the layer from a
    token to the logits of words; None if the word table is."""

    spec: Mapping[str, Any]
    width: int
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer
    output: nn.Module | None


def from_language_model(name: str) -> Start:
    """Read a language model: tiny-lm, a run of `language_model`, or `hf-lm:FOLDER`.

    Raises InputError for any other model.

    >>> start = from_language_model("tiny-lm")
    >>> start.spec["causal"], start.spec["pooling"], "mask" in start.tokenizer.special
    (False, 'mean', True)
    """
    given = load(name)
    if not isinstance(given, LanguageModel):
        raise InputError(
            f"lm={name} is no language model; name one, such as tiny-lm or hf-lm:FOLDER"
        )
    lm: Any = given.lm
    tokenizer = _with_mask(given.tokenizer)
    tower = lm.tower
    weights = dict(tower.state_dict())
    table = next(key for key, module in tower.named_modules() if module is lm.table) + ".weight"
    weights[table] = _grown(weights[table], tokenizer.vocab_size)
    if isinstance(tower, TextTower):
        spec = {**tower.spec, **BOTH_WAYS, "vocab_size": len(weights[table])}
        return Start(
            spec=spec, width=tower.width, weights=weights, tokenizer=tokenizer, output=None
        )
    config = {**lm.plain, "vocab_size": len(weights[table])}
    return Start(
        spec={"name": "hf", "config": config, **BOTH_WAYS},
        width=lm.table.embedding_dim,
        weights={f"model.{key}": value for key, value in weights.items()},
        tokenizer=tokenizer,
        output=lm.head,
    )


def _with_mask(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with a token `mask`, added behind its vocabulary if it has none."""
    if "mask" in tokenizer.special:
        return tokenizer
    return from_dict({**tokenizer.to_dict(), "special": "+".join([*tokenizer.added, "mask"])})


def _grown(table: Tensor, size: int) -> Tensor:
    """A word table (V, D) with the mean word for each id that it lacks."""
    lacking = size - len(table)
    if lacking <= 0:
        return table.detach()
    return torch.cat([table.detach(), table.detach().mean(0, keepdim=True).expand(lacking, -1)])
