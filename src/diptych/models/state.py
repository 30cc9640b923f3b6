"""The state of a decoder, what it says of candidates for the next token, and a decoder's interface.

Dimensions: B prompts, N tokens read so far, D width, V vocabulary, k candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diptych.towers.nn.kv_cache import KVCache


@dataclass(frozen=True, eq=False)
class State:
    """The state of a decoder after the N tokens that it has read, prefix included. It is
    immutable."""

    logits: Tensor  # (B, V), of the next token
    hidden: Tensor  # (B, N, D), after the final norm, from which logits are computed
    mask: Tensor  # (B, N) bool, True where a token is real
    cache: KVCache
    memory: Tensor | None = None
    memory_mask: Tensor | None = None

    def select(self, index: Tensor) -> "State":
        """The state of the rows `index` (N,), which may repeat (candidates, beams, unfinished
        rows)."""

        def of(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[index]

        logits = self.logits[index]
        hidden = self.hidden[index]
        mask = self.mask[index]
        return State(
            logits, hidden, mask, self.cache.select(index), of(self.memory), of(self.memory_mask)
        )


@dataclass(frozen=True, eq=False)
class Peek:
    """k candidates for the next token of each row, each read after the same tokens.

    `hidden` (B, k, D) are the candidates' tokens after the final norm. `logits` are computed when
    they are asked for, since a search may need those of the chosen candidates alone.
    """

    hidden: Tensor
    head: Callable[[Tensor], Tensor]
    after: Callable[[Tensor], State]

    @property
    def logits(self) -> Tensor:
        """The logits (B, k, V) of the token after each candidate."""
        return self.head(self.hidden)

    def take(self, index: Tensor) -> State:
        """The state after candidate `index` (B,) of each row."""
        return self.after(index)


class Decoder(Protocol):
    """The interface of a decoder for `generate`."""

    @property
    def context(self) -> int: ...

    def start(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        memory: Tensor | None,
        prefix: Tensor | None,
        *,
        memory_mask: Tensor | None,
    ) -> State: ...

    def next(self, state: State, ids: Tensor) -> State: ...

    def peek(self, state: State, ids: Tensor) -> Peek: ...


def peek_by_next(lm: Decoder, state: State, ids: Tensor) -> Peek:
    """What `peek` returns, by reading each candidate (B, k) in a row of its own: for decoders whose
    cache cannot be shared by the candidates of a row.

    >>> from diptych.towers.build import text_tower
    >>> from diptych.models.causal_lm import CausalLM
    >>> lm = CausalLM(text_tower("text:width=32:depth=1", vocab_size=100, context=16))
    >>> peek = peek_by_next(lm, lm.start(torch.tensor([[1, 7]])), torch.tensor([[4, 5, 6]]))
    >>> peek.hidden.shape, peek.take(torch.tensor([2])).hidden.shape
    (torch.Size([1, 3, 32]), torch.Size([1, 3, 32]))
    """
    B, k = ids.shape
    rows = torch.arange(B, device=ids.device)
    read = lm.next(state.select(rows.repeat_interleave(k)), ids.flatten())
    return Peek(
        hidden=read.hidden[:, -1].unflatten(0, (B, k)),
        head=lambda _: read.logits.unflatten(0, (B, k)),
        after=lambda index: read.select(rows * k + index),
    )
