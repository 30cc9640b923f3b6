"""Generation: one `generate` for every causal decoder, with a strategy of `strategies`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.errors import InputError
from diptych.models.state import Decoder
from diptych.models.strategies import Limits, strategy_of
from diptych.rng import generator


def generate(
    lm: Decoder,
    ids: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    strategy: str = "greedy",
    max_tokens: int | None = None,
    min_tokens: int = 0,
    eot: int | None = None,
    seed: int = 0,
    row: int = 0,
    memory: Tensor | None = None,
    memory_mask: Tensor | None = None,
    prefix: Tensor | None = None,
    **options: Any,
) -> list[list[int]]:
    """Generate the tokens that follow each prompt, up to and without `eot`.

    The prompt is that of `lm.start`: ids (B, L), a prefix (B, P, D), a mask (B, P + L) of real
    tokens, a memory. At most `max_tokens` are generated (None: up to the context), at least
    `min_tokens`. The random numbers of row b depend only on (seed, `row` + b). `strategy` is a name
    with or without options, `contrastive:k=5:alpha=0.6`; `options` are further ones. Gradients are
    disabled; the caller sets the mode (dropout). Raises InputError
    for an unknown strategy or option, and if the prompt leaves too little of the context.

    >>> from diptych.towers.build import text_tower
    >>> from diptych.models.causal_lm import CausalLM
    >>> lm = CausalLM(text_tower("text:width=32:depth=1", vocab_size=100, context=16))
    >>> [len(text) for text in generate(lm, torch.tensor([[1, 7], [1, 9]]), strategy="sample", max_tokens=5, seed=1)]
    [5, 5]
    """
    chosen = strategy_of(strategy, options)
    if max_tokens is not None and max_tokens < max(1, min_tokens):
        raise InputError(
            f"max_tokens is {max_tokens}; it must be at least 1, and at least min_tokens ({min_tokens})"
        )
    with torch.no_grad():
        state = lm.start(ids, mask, memory, prefix, memory_mask=memory_mask)
        room = (lm.context - state.mask.sum(1)).tolist()
        if min(room) < max(1, min_tokens, max_tokens or 0):
            raise InputError(
                f"a prompt of {lm.context - min(room)} tokens leaves {min(room)} of the context of {lm.context}; "
                "shorten it, or lower max_tokens or min_tokens"
            )
        lengths = room if max_tokens is None else [max_tokens] * len(room)
        numbers = [
            generator(seed, "generate", row + b).random(max(lengths)) for b in range(len(lengths))
        ]
        draws = torch.from_numpy(np.stack(numbers)).to(state.logits.device)
        return chosen.run(lm, state, Limits(lengths, min_tokens, eot), draws)
