"""A frozen causal language model that reads media: gated cross-attention before its upper blocks.

    x <- x + tanh(g_a) attention(norm x, media);   x <- x + tanh(g_f) mlp(x),      g_a = g_f = 0 at the start

Which medium a token reads is said by its media time: how many media marks there are up to it.

Dimensions: B texts, L ids, D width of the language model, T media of n tokens each, M = T n, V words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.methods.teacher import LentLM
from diptych.models.causal_lm import CausalLM
from diptych.models.state import Peek, State, peek_by_next
from diptych.towers.nn.attention import Attention
from diptych.towers.nn.kv_cache import LayerCache
from diptych.towers.nn.parts import freeze
from diptych.towers.nn.transformer import FeedForward, init

HEADS = 8
HEAD_WIDTH = 64
Reach = Literal["latest", "previous", "none"]
"""Which media a token reads: the latest one before it, all of these, or none (a control)."""


def media_times(ids: Tensor, visual: int, before: Tensor | None = None) -> Tensor:
    """How many media marks `visual` there are up to each of the ids (B, L), itself included, and
    `before` (B,) them.

    >>> media_times(torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 1]]), 1).tolist()
    [[1, 1, 2, 2, 2], [0, 1, 1, 1, 2]]
    """
    times = (ids == visual).cumsum(1)
    return times if before is None else times + before[:, None]


class GatedBlock(nn.Module):
    """Cross-attention to media and a feed-forward layer, each behind a gate, without biases in linear
    layers.

    A larger `compress` c divides the width of all heads together, 512 / c, and that of the hidden
    layer, 4 D / c. The number of heads, and the factor 64^-1/2 of their products, stay.
    """

    def __init__(self, width: int, memory_width: int, compress: int, eps: float = 1e-5):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.attn = Attention(
            width,
            HEADS,
            memory_width=memory_width,
            inner=HEADS * HEAD_WIDTH // compress,
            scale=HEAD_WIDTH**-0.5,
            bias=False,
            out_bias=False,
        )
        self.gate_attn = nn.Parameter(torch.zeros(()))
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = FeedForward(width, 4 / compress, "gelu", bias=False)
        self.gate_mlp = nn.Parameter(torch.zeros(()))
        init(self, width, 1)

    def forward(
        self, x: Tensor, media: Tensor, mask: Tensor, kept: LayerCache | None = None
    ) -> Tensor:
        """Tokens (B, L, D) and media (B, M, ·), of which each token reads those where the mask
        (B, L, M) is True: nothing if there are none."""
        x = x + self.gate_attn.tanh() * self.attn(self.norm(x), media, mask=mask, kept=kept)
        return x + self.gate_mlp.tanh() * self.mlp(self.norm2(x))


@dataclass
class MediaCache:
    """What is kept between the calls of decoding: the cache of the language model, the keys and
    values of the media, and the media time (B,) of the last token read."""

    own: Any
    cross: Sequence[LayerCache]
    time: Tensor | None = None

    def select(self, index: Tensor | None = None) -> "MediaCache":
        """The cache of the rows `index` (N,), which may repeat; None: of all."""
        time = self.time if self.time is None or index is None else self.time[index]
        cross = [kept.select(index) for kept in self.cross]
        return MediaCache(self.own.select(index), cross, time)


@dataclass
class _Reading:
    """The edit of one pass: it runs the gated blocks, and keeps the input of block `tap`."""

    blocks: dict[int, nn.Module]
    tap: int
    media: Tensor | None
    mask: Tensor | None
    kept: dict[int, LayerCache] = field(default_factory=dict)
    tapped: Tensor | None = None

    def __call__(self, layer: int, tokens: Tensor) -> Tensor:
        if layer == self.tap:
            self.tapped = tokens
        block = self.blocks.get(layer)
        if block is None or self.media is None:
            return tokens
        return block(tokens, self.media, self.mask, self.kept.get(layer))


class GatedLM(CausalLM):
    """A frozen language model with gated blocks before the blocks `unimodal`, `unimodal` +
    `interval`, …; those below read no media, and are the text encoder.

    `lm` is a lent model, of which the state dict holds a checksum, or a module of this one's own. Of
    its words the first `vocab_size` are used, and two follow: the media mark and the end of a chunk, whose
    embeddings, input and output, are drawn with the spread of the others and stay as they are. A
    medium has `tokens` tokens of width `memory_width`. `tap` is the block whose input is the text
    encoder's output, by default the first with media.

    Raises InputError for a split that leaves one of the halves without blocks.
    """

    added: Tensor

    def __init__(
        self,
        lm: LentLM | CausalLM,
        *,
        vocab_size: int,
        memory_width: int,
        tokens: int,
        unimodal: int | None = None,
        interval: int = 1,
        compress: int = 1,
        reach: Reach = "latest",
        published_tap: bool = False,
    ):
        nn.Module.__init__(self)
        self.lent = lm if isinstance(lm, LentLM) else None
        self.own = None if isinstance(lm, LentLM) else lm
        freeze(self.own)
        depth = self.lm.depth
        first = depth // 2 if unimodal is None else unimodal
        if not 0 < first < depth:
            raise InputError(
                f"the language model has {depth} blocks, and the first {first} are to read no media; give "
                "--method.unimodal a number between, so that both halves have some"
            )
        self.vocab_size = vocab_size
        self.tokens = tokens
        self.reach = reach
        self.tap = first - published_tap
        width = self.lm.table.embedding_dim
        self.places = tuple(range(first, depth, interval))
        self.blocks = nn.ModuleList(GatedBlock(width, memory_width, compress) for _ in self.places)
        table = self.lm.table.weight
        rows = torch.randn(2, width, dtype=table.dtype, device=table.device)
        self.register_buffer("added", rows * table.detach().std())

    @property
    def lm(self) -> CausalLM:
        """The frozen language model."""
        return self.own if self.lent is None else self.lent.model.lm  # type: ignore[return-value]

    @property
    def table(self) -> nn.Embedding:
        return self.lm.table

    @property
    def context(self) -> int:
        return self.lm.context

    @property
    def depth(self) -> int:
        return self.lm.depth

    @property
    def visual(self) -> int:
        """The id of the media mark."""
        return self.vocab_size

    def config(self) -> dict[str, Any]:
        """Plain values: the method's options describe the rest."""
        return {}

    def train(self, mode: bool = True) -> "GatedLM":
        super().train(mode)
        if self.own is not None:
            self.own.eval()  # it is frozen
        return self

    def logits(self, hidden: Tensor) -> Tensor:
        own = self.lm.logits(hidden)[..., : self.vocab_size]
        return torch.cat([own, F.linear(hidden, self.added)], -1)

    def embeddings(self, ids: Tensor) -> Tensor:
        """The embeddings (B, L, D) of ids (B, L)."""
        own = self.lm.table(ids.clamp(max=self.vocab_size - 1))
        added = self.added[(ids - self.vocab_size).clamp(min=0)]
        return torch.where((ids >= self.vocab_size)[..., None], added, own)

    def forward(  # type: ignore[override]  # media are marked by ids, so there is no text without
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        prefix: None = None,
        cache: MediaCache | None = None,
    ) -> Tensor:
        """As `CausalLM.forward`; `memory` (B, M, ·) are the tokens of media in the order of their
        marks, of which `memory_mask` (B, M) says which are real."""
        assert prefix is None, "embeddings have no media time"
        return self.read(ids, mask, memory=memory, memory_mask=memory_mask, cache=cache)[1]

    def read(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: MediaCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The text encoder's tokens (B, L, D), which read no media, and those after the final norm, in
        one pass. Arguments are those of `forward`."""
        times = media_times(ids, self.visual, None if cache is None else cache.time)
        edit = _Reading(
            blocks=dict(zip(self.places, self.blocks, strict=True)),
            tap=self.tap,
            media=memory,
            mask=None if memory is None else self.allowed(times, memory, memory_mask),
        )
        own = None
        if cache is not None:
            own = cache.own
            cache.time = times[:, -1]
            edit.kept = dict(zip(self.places, cache.cross, strict=True))
        hidden = self.lm(prefix=self.embeddings(ids), mask=mask, cache=own, edit=edit)
        assert edit.tapped is not None, "every pass reaches the upper half"
        return edit.tapped, hidden

    def allowed(self, times: Tensor, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Which tokens of media (B, M, ·) each token reads, (B, L, M), by the media times (B, L)."""
        medium = torch.arange(memory.shape[1], device=times.device) // self.tokens + 1
        times = times[..., None]
        seen = times == medium if self.reach == "latest" else times >= medium
        if self.reach == "none":
            seen = torch.zeros_like(seen)
        return seen if memory_mask is None else seen & memory_mask[:, None]

    def text_tokens(self, ids: Tensor) -> Tensor:
        """The text encoder's tokens (B, L, D) of ids (B, L); the upper half is not run."""
        return self.lm.block_input(self.tap, prefix=self.embeddings(ids))

    def _empty_cache(self) -> MediaCache:  # type: ignore[override]  # with the interface of one
        return MediaCache(self.lm._empty_cache(), [LayerCache() for _ in self.places])

    def peek(self, state: State, ids: Tensor) -> Peek:
        """As `CausalLM.peek`; each candidate is read in a row of its own."""
        return peek_by_next(self, state, ids)
