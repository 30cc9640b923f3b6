"""The causal language model: a causal text tower with tied input and output embeddings.

    p(x_t | x_1 … x_{t-1}) = softmax(table · h_{t-1}),      h the tokens after the final norm

Decoding has four calls: `start` reads the prompt, `next` one more token, `peek` several candidates for
the next token, and `select` of the state selects or repeats rows.

Dimensions: B texts, L tokens of a text, P prefix tokens, N = P + L, M memory tokens, D width, V
vocabulary, k candidates.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.state import Peek, State
from diptych.objectives.tokens import token_log_probs
from diptych.towers.encoded import Edit
from diptych.towers.nn.kv_cache import KVCache
from diptych.towers.text.text import TextTower


class CausalLM(nn.Module):
    """A language model on a causal text tower, without further parameters (the output is tied to
    the table).

    Padding may be anywhere: `mask` is True at real tokens, and only these are counted by positions.
    `prefix` (B, P, D) are embeddings read before the ids; layers with cross-attention attend to
    `memory` (B, M, ·). Raises InputError for a tower that is not causal, is always padded, or is
    not a `TextTower`.

    >>> from diptych.towers.build import text_tower
    >>> lm = CausalLM(text_tower("text:width=32:depth=1", vocab_size=100, context=16))
    >>> state = lm.start(torch.tensor([[1, 7]]))
    >>> lm.next(state, state.logits.argmax(-1)).hidden.shape
    torch.Size([1, 3, 32])
    """

    def __init__(self, tower: TextTower):
        super().__init__()
        if (
            not isinstance(tower, TextTower)
            or not tower.config.causal
            or tower.config.padding == "max"
            or tower.config.scale_embedding
        ):
            raise InputError(
                f"a language model needs a causal text tower that is not always padded and does not scale its "
                f"embeddings, not {tower.spec['name']!r} with these options; choose text:causal=true:padding=longest"
            )
        self.tower = tower

    @property
    def table(self) -> nn.Embedding:
        """The embeddings (V, D), input and output."""
        return self.tower.table

    @property
    def context(self) -> int:
        """The most tokens that can be read, prefix included."""
        return self.tower.context

    def config(self) -> dict[str, Any]:
        """Plain values from which the same module can be built: the spec of the text tower."""
        return {"text": self.tower.spec}

    def forward(
        self,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        prefix: Tensor | None = None,
        cache: KVCache | None = None,
        edit: Edit | None = None,
    ) -> Tensor:
        """Read a prefix (B, P, D), ids (B, L) or both: tokens (B, N, D) after the final norm.

        `edit(layer, tokens)` is applied to the input of each block. Without a mask, padding must
        follow the real tokens. Raises InputError above the context.
        """
        x, place = self._embedded(ids, mask, prefix)
        x = x + self.tower.positions[place]
        how = {"memory": memory, "memory_mask": memory_mask, "cache": cache, "edit": edit}
        return self._decoded(x, mask=mask, **how)

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(self.tower.transformer.layers)

    def block_input(self, layer: int, **prompt: Any) -> Tensor:
        """The tokens (B, N, D) that block `layer` reads; it and those behind it are not run.
        Keywords are those of `forward`."""

        def stop(at: int, tokens: Tensor) -> Tensor:
            if at == layer:
                raise _Reached(tokens)
            return tokens

        try:
            self(**prompt, edit=stop)
        except _Reached as reached:
            return reached.tokens
        raise InputError(f"there is no block {layer}; the language model has {self.depth}")

    def _decoded(self, x: Tensor, **options: Any) -> Tensor:
        """Tokens with their positions (B, N, D) -> tokens after the final norm; keywords as in
        `Transformer.forward`."""
        return self.tower.norm(self.tower.blocks(x, **options))

    def _embedded(
        self, ids: Tensor | None, mask: Tensor | None, prefix: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The embeddings (B, N, D) of a prefix and ids, and their positions, (N,) without a
        mask."""
        parts = [
            part for part in (prefix, None if ids is None else self.table(ids)) if part is not None
        ]
        if not parts:
            raise InputError("a language model takes ids, a prefix, or both")
        x = torch.cat(parts, dim=1)
        N = x.shape[1]
        place = (
            torch.arange(N, device=x.device)
            if mask is None
            else (mask.cumsum(1) - 1).clamp(min=0)[:, -N:]
        )
        most = N if mask is None else mask.shape[1]
        if most > self.context and mask is not None:  # padding is not counted
            most = int(mask.sum(1).max())
        if most > self.context:
            raise InputError(
                f"{most} tokens exceed the language model's context {self.context}; give or ask for fewer"
            )
        return x, place

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of the token after each of the tokens (…, D)."""
        return F.linear(hidden, self.table.weight)

    def start(
        self,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        prefix: Tensor | None = None,
        *,
        memory_mask: Tensor | None = None,
    ) -> State:
        """Read prefix and ids. `mask` (B, N) covers both, None if all are real; each row needs a
        real token. Raises InputError for a row without one."""
        _check_start(ids, mask, prefix)
        cache = self._empty_cache()
        hidden = self(ids, mask, memory=memory, memory_mask=memory_mask, prefix=prefix, cache=cache)
        B, N, _ = hidden.shape
        mask = (
            torch.ones(B, N, dtype=torch.bool, device=hidden.device)
            if mask is None
            else mask.bool()
        )
        last = N - 1 - mask.flip(1).int().argmax(1)
        logits = self.logits(hidden[torch.arange(B, device=hidden.device), last])
        return State(at_least_float32(logits), hidden, mask, cache, memory, memory_mask)

    def _empty_cache(self) -> KVCache:
        return KVCache.empty(self.depth)

    def next(self, state: State, ids: Tensor) -> State:
        """Read one more token per row, ids (B,), or several (B, n). The given state is not
        changed."""
        ids = ids.view(len(ids), -1)
        mask = torch.cat([state.mask, torch.ones_like(ids, dtype=torch.bool)], dim=1)
        cache = state.cache.select()
        hidden = self(ids, mask, memory=state.memory, memory_mask=state.memory_mask, cache=cache)
        logits = at_least_float32(self.logits(hidden[:, -1]))
        return replace(
            state,
            logits=logits,
            hidden=torch.cat([state.hidden, hidden], 1),
            mask=mask,
            cache=cache,
        )

    def peek(self, state: State, ids: Tensor) -> Peek:
        """Read k candidates (B, k) for the next token, each as if it alone followed the tokens read.

        They are k queries over one cache: nothing is read again, and no row is repeated. The given
        state is not changed. Raises InputError where a row fills the context.
        """
        lengths = state.mask.sum(1)
        if int(lengths.max()) >= self.context:
            raise InputError(
                f"a text fills the language model's context of {self.context} tokens; ask for fewer"
            )
        hidden, cache = self._peeked(state, ids, lengths)

        def after(index: Tensor) -> State:
            chosen = hidden[torch.arange(len(ids), device=ids.device), index]
            return replace(
                state,
                logits=at_least_float32(self.logits(chosen)),
                hidden=torch.cat([state.hidden, chosen[:, None]], 1),
                mask=F.pad(state.mask, (0, 1), value=True),
                cache=cache.take(index, ids.shape[1]),
            )

        return Peek(hidden, lambda some: at_least_float32(self.logits(some)), after)

    def _peeked(self, state: State, ids: Tensor, lengths: Tensor) -> tuple[Tensor, KVCache]:
        """The candidates' tokens (B, k, D) after the final norm, and the cache with all of them."""
        x = self.table(ids) + self.tower.positions[lengths][:, None]
        cache = state.cache.select()
        hidden = self._decoded(
            x,
            mask=candidates_mask(state.mask, ids.shape[1]),
            memory=state.memory,
            memory_mask=state.memory_mask,
            causal=False,  # the mask says it all
            cache=cache,
        )
        return hidden, cache

    def token_log_probs(
        self,
        ids: Tensor,
        lengths: Tensor,
        *,
        first: int | Tensor = 1,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """log p of each id (B, L) given those before it; 0 before position `first` (B,) and from
        `lengths`.

        Padding is on the right. Without a prefix nothing precedes position 0, so `first` is at
        least 1.
        """
        hidden = self(ids, memory=memory, memory_mask=memory_mask, prefix=prefix)
        return self.log_probs_of(hidden, ids, lengths, first=first)

    def log_probs_of(
        self, hidden: Tensor, ids: Tensor, lengths: Tensor, *, first: int | Tensor = 1
    ) -> Tensor:
        """`token_log_probs` of ids (B, L) whose tokens, behind those of a prefix if there is one, are
        hidden (B, N, D)."""
        first = torch.as_tensor(first, device=ids.device).expand(len(ids))
        if hidden.shape[1] == ids.shape[1]:
            hidden = F.pad(hidden, (0, 0, 1, 0))
            first = first.clamp(min=1)
        before = hidden[:, -ids.shape[1] - 1 : -1]  # the token before each id
        place = torch.arange(ids.shape[1], device=ids.device)
        counted = (place >= first[:, None]) & (place < lengths[:, None])
        return self.log_probs_where(before, ids, counted)

    def log_probs_where(self, before: Tensor, ids: Tensor, counted: Tensor) -> Tensor:
        """log p of each id (B, L) where `counted` (B, L) is True, else 0, from the token before each,
        (B, L, D)."""
        # only of counted positions, as this is the largest product
        rows = counted.flatten().nonzero()[:, 0]
        logits = at_least_float32(self.logits(before.flatten(0, 1).index_select(0, rows)))
        found = token_log_probs(logits, ids.flatten()[rows])
        return found.new_zeros(ids.numel()).index_copy(0, rows, found).view_as(ids)

    def next_log_probs(self, hidden: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """log p of each id (B, L) behind the first, (B, L - 1), whose tokens before them are hidden
        (B, L - 1, D); 0 from `lengths` (B,)."""
        behind = F.pad(hidden, (0, 0, 0, 1))  # the last one predicts nothing
        return self.log_probs_of(behind, ids[:, 1:], lengths - 1, first=0)

    def log_prob(self, ids: Tensor, lengths: Tensor, **options: Any) -> Tensor:
        """log p of each text (B,), the sum of `token_log_probs`; keywords are the same."""
        return self.token_log_probs(ids, lengths, **options).sum(1)


class _Reached(Exception):
    """A block is reached, whose input is all that was asked for."""

    def __init__(self, tokens: Tensor):
        super().__init__()
        self.tokens = tokens


def candidates_mask(mask: Tensor, k: int) -> Tensor:
    """Which of N tokens and k candidates each candidate sees: the real tokens, by the mask (B, N),
    and itself, (B, k, N + k).

    >>> candidates_mask(torch.tensor([[False, True]]), 2).int().tolist()
    [[[0, 1, 1, 0], [0, 1, 0, 1]]]
    """
    B = len(mask)
    itself = torch.eye(k, dtype=torch.bool, device=mask.device)
    return torch.cat([mask[:, None].expand(B, k, -1), itself.expand(B, k, k)], 2)


def _check_start(ids: Tensor | None, mask: Tensor | None, prefix: Tensor | None) -> None:
    """Raise InputError for prompts without a token."""
    parts = [part for part in (prefix, ids) if part is not None]
    if not parts:
        return
    if mask is None:
        mask = torch.ones(len(parts[0]), sum(part.shape[1] for part in parts), dtype=torch.bool)
    empty = (~mask.bool().any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"prompt {empty[0]} is empty; each needs a token, such as the one that starts a text"
        )


def prefixed(
    vectors: Tensor, table: nn.Embedding, ids: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Vectors (B, P, D) followed by the embeddings of ids (B, L), and the mask (B, M) of real
    ones."""
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
    if ids is None:
        return vectors, mask
    assert lengths is not None, "ids come with their lengths"
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    return torch.cat([vectors, table(ids).to(vectors.dtype)], 1), torch.cat([mask, real], 1)
