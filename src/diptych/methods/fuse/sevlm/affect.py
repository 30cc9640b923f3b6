"""A decoder that reads the affect of words: valence, arousal and dominance (VAD) beside each token of an
explanation.

    a_t = lexicon(token t),   e = VADEncoder(a),   h_t = word_t + position_t + segment_t
    h_t <- W [h_t; e_t] + b           where t is in the explanation
    H = blocks(h, image)              with cross-attention to the image in every block

The explanation begins behind the joint ("because"). The segment of a token is one of two rows of the word
table: explanation from the last token of the joint on, emotion before.

Dimensions: B texts, N tokens, D width, V words, M memory tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.models.causal_lm import CausalLM
from diptych.models.state import Peek, State, peek_by_next
from diptych.towers.encoded import Edit
from diptych.towers.nn.kv_cache import KVCache
from diptych.towers.text.text import TextTower

VAD = 3
LAYERS = 3
SEGMENTS = 2
"""The rows of the word table behind the vocabulary: the segments of emotion and explanation."""
_HIDDEN = 128


class VADLayer(nn.Module):
    """h = norm(x + attention x), h = norm(h + mlp h), and x + h is returned: one head, whose values have
    no output projection, and ReLU."""

    def __init__(self, dropout: float):
        super().__init__()
        self.q = nn.Linear(VAD, VAD)
        self.k = nn.Linear(VAD, VAD)
        self.v = nn.Linear(VAD, VAD)
        self.norm1 = nn.LayerNorm(VAD)
        self.mlp = nn.Sequential(nn.Linear(VAD, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, VAD))
        self.norm2 = nn.LayerNorm(VAD)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        """Tokens (B, N, 3), each of which attends to those that are `allowed` (B, N, N), or to all."""
        found = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), attn_mask=allowed)
        h = self.norm1(x + self.dropout(found))
        h = self.norm2(h + self.dropout(self.mlp(h)))
        return x + h


class VADEncoder(nn.Module):
    """Encodes the VAD of tokens (B, N, 3) as (B, N, 3): three numbers a token all the way.

    With `causal`, a token reads those up to itself alone.
    """

    def __init__(self, context: int, *, causal: bool, dropout: float = 0.0):
        super().__init__()
        self.causal = causal
        self.positions = nn.Parameter(torch.randn(context, VAD) * 0.01)
        self.norm = nn.LayerNorm(VAD)
        self.layers = nn.ModuleList(VADLayer(dropout) for _ in range(LAYERS))

    def forward(self, values: Tensor, place: Tensor, mask: Tensor | None = None) -> Tensor:
        """Values (B, N, 3) at their places (N,) or (B, N), of which the mask (B, N) says what is real."""
        allowed = None
        if self.causal:
            N = values.shape[1]
            allowed = torch.ones(N, N, dtype=torch.bool, device=values.device).tril()
        if mask is not None:
            real = mask[:, None].bool()
            allowed = real if allowed is None else real & allowed
            # what is not real reads itself, so that no row of the softmax is empty
            allowed = allowed | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        x = self.norm(values + self.positions[place])
        for layer in self.layers:
            x = layer(x, allowed)
        return x


@dataclass
class AffectCache:
    """What is kept between the calls of decoding: keys and values, and the ids (B, N) read so far."""

    own: KVCache
    ids: Tensor | None = None

    def select(self, index: Tensor | None = None) -> "AffectCache":
        """The cache of the rows `index` (N,), which may repeat; None: of all."""
        ids = self.ids if self.ids is None or index is None else self.ids[index]
        return AffectCache(self.own.select(index), ids)


class AffectLM(CausalLM):
    """A language model with cross-attention, whose table has two rows more than the vocabulary: the
    segments of emotion and explanation.

    `values` (V, 3) are those of each token, None for a decoder without VAD. `joint` are the tokens
    between emotion and explanation; with `split` explanations begin at that place instead. An encoder
    of VAD that is not `causal` reads the whole text, so each new token is decoded by reading all anew.
    """

    lexicon: Tensor | None

    def __init__(
        self,
        tower: TextTower,
        *,
        values: Tensor | None,
        joint: Sequence[int],
        causal: bool = True,
        split: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__(tower)
        self.joint = tuple(joint)
        self.split = split
        self.dropout = nn.Dropout(dropout)
        self.vad = self.fuse = None
        self.register_buffer("lexicon", values)
        if values is not None:
            self.vad = VADEncoder(tower.context, causal=causal, dropout=dropout)
            self.fuse = nn.Linear(tower.width + VAD, tower.width)

    @property
    def reads_ahead(self) -> bool:
        """Whether the VAD of a token's successors enters its state."""
        return self.vad is not None and not self.vad.causal

    def parts(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Which of the tokens (B, N) have the segment of the explanation, and which are of the
        explanation itself, behind the joint, (B, N) each."""
        if self.split is not None:
            place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            if mask is not None:
                place = mask.cumsum(1) - 1
            return place >= self.split - 1, place >= self.split
        size = len(self.joint)
        ends = ids.new_zeros(ids.shape, dtype=torch.bool)
        if ids.shape[1] >= size:
            ends[:, size - 1 :] = (ids.unfold(1, size, 1) == ids.new_tensor(self.joint)).all(-1)
        segment = ends.cumsum(1) > 0
        return segment, F.pad(segment, (1, 0))[:, :-1]

    def values(self, ids: Tensor) -> Tensor:
        """The VAD (B, N, 3) of tokens (B, N)."""
        assert self.lexicon is not None, "a decoder without VAD has no lexicon"
        return self.lexicon[ids]

    def forward(
        self,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        prefix: Tensor | None = None,
        cache: Any = None,
        edit: Edit | None = None,
    ) -> Tensor:
        """As `CausalLM.forward`; `memory` (B, M, ·) are the tokens of an image. There is no prefix."""
        assert ids is not None, "the parts of a text are told by its ids"
        assert prefix is None, "embeddings have no VAD"
        new = ids.shape[1]
        own = None
        if cache is not None:
            ids = ids if cache.ids is None else torch.cat([cache.ids, ids], 1)
            cache.ids = ids
            own = None if self.reads_ahead else cache.own
        read = ids if own is None else ids[:, -new:]
        count = read.shape[1]
        segment, explains = self.parts(ids, mask)
        x, place = self._embedded(read, mask, None)
        rows = self.table.num_embeddings - SEGMENTS + segment[:, -count:].long()
        x = self.dropout(x + self.tower.positions[place] + self.table(rows))
        if self.vad is not None and self.fuse is not None:
            every = place if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
            e = self.vad(self.values(ids), every, mask)[:, -count:]
            fused = self.fuse(torch.cat([x, e.to(x.dtype)], -1))
            x = torch.where(explains[:, -count:, None], fused, x)
        how = {"memory": memory, "memory_mask": memory_mask, "cache": own, "edit": edit}
        return self._decoded(x, mask=mask, **how)[:, -new:]

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
        """As `CausalLM.token_log_probs`. Where the encoder of VAD reads ahead, each token is predicted
        from a text that ends before it, as in decoding."""
        how = {"memory": memory, "memory_mask": memory_mask}
        if not self.reads_ahead:
            return super().token_log_probs(ids, lengths, first=first, **how)
        before = [self(ids[:, :end], **how)[:, -1] for end in range(1, ids.shape[1])]
        hidden = torch.stack([*before, torch.zeros_like(before[0])], 1)
        return self.log_probs_of(hidden, ids, lengths, first=first)

    def _empty_cache(self) -> AffectCache:  # type: ignore[override]  # with the interface of one
        return AffectCache(super()._empty_cache())

    def peek(self, state: State, ids: Tensor) -> Peek:
        """As `CausalLM.peek`; each candidate is read in a row of its own."""
        return peek_by_next(self, state, ids)
