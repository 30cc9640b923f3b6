"""How much the last layer of a text tower attends to each word of a text.

    a_l = mean over heads of the weight with which the pooled token attends to token l, in the last layer
    share(w) = (sum of a_l over the tokens l of word w) / (the same sum over all words)

Special tokens, padding, punctuation and unknown words belong to no word. Where a tower pools the mean of its
tokens, a_l is the mean over those tokens, since all of them are pooled alike. It shows where the
layer reads, not what an answer depends on. Source: Verma et al. 2023 (TIP-CLIP).

Dimensions: N texts, L tokens, H heads.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diptych.data.tokenizers import Tokenizer, by_length
from diptych.errors import InputError
from diptych.models.model import Progress, evaluating
from diptych.towers.text.hf import HFTextTower
from diptych.towers.text.text import TextTower

Words = list[tuple[str, float]]
"""The words of a text in order, each with its share."""


_SIGNS = re.compile(r"^[\W_\ufffd]+|[\W_\ufffd]+$")


def word_attention(
    model: Any, texts: Sequence[str], *, batch_size: int = 64, progress: Progress | None = None
) -> list[Words]:
    """The words of each text, as the tokenizer spells them, with their shares, which sum to 1.

    Words beyond the model's context are left out, and a text without words has none. Raises
    InputError as `check_attends` does.

    >>> from diptych.methods.store import load
    >>> [words] = word_attention(load("tiny"), ["two dogs on a beach."])
    >>> [word for word, _ in words], round(sum(share for _, share in words), 6)
    (['two', 'dogs', 'on', 'a', 'beach'], 1.0)
    """
    check_attends(model)
    tower = model.encoder.text
    rows = model.tokenizer.encode(texts)
    batches, places = by_length(rows, model.tokenizer, batch_size)
    found: list[Tensor] = []
    with evaluating(model.encoder), torch.inference_mode():
        for ids, lengths in batches:
            weights = pooled_attention(tower, ids.to(model.device), lengths.to(model.device))
            found.extend(weights.double().cpu())
            if progress:
                progress(len(found), len(rows))
    return [
        words_of(row, found[place].tolist(), model.tokenizer)
        for row, place in zip(rows, places.tolist(), strict=True)
    ]


def check_attends(model: Any) -> None:
    """Raise InputError for a model without a text tower of attention layers, or its tokenizer."""
    tower = getattr(getattr(model, "encoder", None), "text", None)
    name = getattr(model, "name", type(model).__name__)
    if not isinstance(tower, TextTower | HFTextTower):
        raise InputError(
            f"{name} has no text tower whose attention can be read; name a model with a text tower "
            "text or hf"
        )
    if model.tokenizer is None:
        raise InputError(f"{name} came without a tokenizer and cannot read texts")


def pooled_attention(tower: TextTower | HFTextTower, ids: Tensor, lengths: Tensor) -> Tensor:
    """The weights a (N, L) with which what is pooled attends to each of the ids (N, L)."""
    L = ids.shape[1]
    weights = (
        _of_hf(tower, ids, lengths)
        if isinstance(tower, HFTextTower)
        else _of_ours(tower, ids, lengths)
    )
    by_token = weights.mean(1)  # over heads
    match tower.config.pooling:
        case "first":
            pooled = by_token[:, 0]
        case "last" | "cls":
            pooled = by_token[:, -1]
        case "eot":
            pooled = by_token[torch.arange(len(ids), device=ids.device), lengths.clamp(min=1) - 1]
        case _:
            mask = tower.mask(lengths, L)
            real = torch.ones_like(ids) if mask is None else mask
            pooled = (by_token * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    return pooled[:, :L]  # a learned token that is pooled stands behind the text


def _of_ours(tower: TextTower, ids: Tensor, lengths: Tensor) -> Tensor:
    """The weights (N, H, L, L) of the last block."""
    last: Any = list(tower.transformer.layers)[-1].attn
    found: list[Tensor] = []

    def keep(_: Any, args: tuple[Tensor], options: dict[str, Any]) -> None:
        found.append(last.weights(*args, mask=options["mask"], causal=options["causal"]))

    handle = last.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        tower(ids, lengths)
    finally:
        handle.remove()
    return found[0]


def _of_hf(tower: HFTextTower, ids: Tensor, lengths: Tensor) -> Tensor:
    """The same of a model of transformers, which returns them only where it computes attention
    step by step."""
    model = tower.model
    config = model.config
    before = config._attn_implementation, config.output_attentions
    found: list[Any] = []
    handle = model.register_forward_hook(lambda _, args, out: found.append(out.attentions))
    try:
        model.set_attn_implementation("eager")
        config.output_attentions = True
        tower(ids, lengths)
    finally:
        handle.remove()
        config.output_attentions = before[1]
        model.set_attn_implementation(before[0])
    if not found[0]:
        raise InputError(f"transformers' {type(model).__name__} returns no attention weights")
    return found[0][-1]


def words_of(row: Sequence[int], weights: Sequence[float], tokenizer: Tokenizer) -> Words:
    """Join the ids of an encoded text, special ones included, into words with their shares of the
    weights (L,)."""
    begin = len(tokenizer.before)
    end = len(row) - len(tokenizer.after)
    starts = tokenizer.starts_word(list(row[begin:end]))
    places = [begin + at for at, start in enumerate(starts) if start]
    found: Words = []
    for first, last in pairwise([*places, end]):
        own = list(range(first, last))
        while own and _is_punctuation(tokenizer.decode([row[own[0]]])):
            own.pop(0)
        while own and _is_punctuation(tokenizer.decode([row[own[-1]]])):
            own.pop()
        # signs of several bytes are spelled by ids that say nothing alone
        word = _SIGNS.sub("", tokenizer.decode([row[at] for at in own]))
        if word:
            found.append((word, sum(weights[at] for at in own)))
    total = sum(weight for _, weight in found)
    return [(word, weight / total) for word, weight in found] if total else []


def _is_punctuation(text: str) -> bool:
    """Whether the text of an id is of signs and spaces alone; a part of a letter in several bytes
    is none."""
    return text != "" and not any(sign.isalnum() or sign == "\ufffd" for sign in text)
