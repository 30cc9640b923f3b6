"""The authors' own transformer: parallel blocks with one head of keys and values, rotary positions,
SwiGLU, and norms without bias.

    x += attention(norm x) + swiglu(norm x)                        a block of the text tower
    x += attention(norm x) + swiglu(norm x),
    x += cross(norm' x, memory) + swiglu'(norm' x)                 a layer of the decoder
    q_p, k_p = R_p q, R_p k:  channels i and i + d/2 turn by p · 10,000^(-2i/d)

All heads of queries read one head of keys and of values. The output layer of the decoder is the table
of embeddings. Source: the blocks, their norms, positions and activation are named in the authors'
code; the width of SwiGLU (4 D), the parallel feed-forward layer beside cross-attention and the weights
at the start are choices of ours.

Dimensions: B texts, N tokens, M memory tokens, D width, H heads, d width of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.models.causal_lm import candidates_mask
from diptych.models.multimodal import MultimodalLM
from diptych.models.state import State
from diptych.spec import Count
from diptych.towers.build import text
from diptych.towers.encoded import Edit
from diptych.towers.nn.attention import attend
from diptych.towers.nn.kv_cache import KVCache, LayerCache
from diptych.towers.nn.product import run
from diptych.towers.nn.transformer import FeedForward, init
from diptych.towers.text.text import TextConfig, TextTower
from diptych.towers.tower import Tower

FORM = "parallel"
"""The name of the decoder among those of `models.multimodal`."""
_BASE = 10_000.0  # of the wavelengths of rotary positions
_GATED = 6.0  # of which swiglu has two thirds: 4 D


def rotated(x: Tensor, place: Tensor) -> Tensor:
    """Queries or keys (B, H, N, d) turned by their places (N,) or (B, N): products depend on the
    difference of places alone.

    >>> rotated(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([1])).flatten()
    tensor([0.5403, 0.8415])
    """
    half = x.shape[-1] // 2
    rates = _BASE ** -(torch.arange(half, device=x.device, dtype=torch.float64) / half)
    turns = place[..., None] * rates
    turns = turns[:, None] if place.ndim == 2 else turns
    cos = turns.cos().to(x.dtype)
    sin = turns.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class SharedKeys(nn.Module):
    """Attention of H heads of queries over one head of keys and values, without biases, over the
    tokens themselves or a memory.

    Masks and the cache are those of `Attention`. Keys of the tokens are turned before they are kept.
    """

    def __init__(self, width: int, heads: int, head_width: int, memory_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, heads * head_width, bias=False)
        self.k = nn.Linear(memory_width or width, head_width, bias=False)
        self.v = nn.Linear(memory_width or width, head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        place: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        kept: LayerCache | None = None,
    ) -> Tensor:
        """Attend from x (B, N, D), at the places (N,) or (B, N), or to a memory (B, M, ·)."""
        q = run(self.q, x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if memory is not None and kept is not None and kept.keys is not None:
            k = kept.keys
            v = kept.values
            assert v is not None, "a cache has values where it has keys"
        else:
            seen = x if memory is None else memory
            k = run(self.k, seen)[:, None]
            v = run(self.v, seen)[:, None]
            if memory is None and place is not None:
                k = rotated(k, place)
            if kept is not None:
                k, v = kept.extend(k, v)
        if memory is None and place is not None:
            q = rotated(q, place)
        if mask is not None:
            mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        each = (-1, self.heads, -1, -1)
        y = attend(q, k.expand(each), v.expand(each), mask=mask, causal=causal)
        return run(self.out, y.transpose(1, 2).flatten(2))


class ParallelBlock(nn.Module):
    """x += attention(norm x) + mlp(norm x); with `memory_width` the attention is to a memory."""

    def __init__(self, config: "ParallelConfig", memory_width: int | None = None):
        super().__init__()
        self.norm = nn.LayerNorm(config.width, config.eps, bias=False)
        heads = config.heads or max(1, config.width // config.head_width)
        self.attn = SharedKeys(config.width, heads, config.head_width, memory_width)
        self.mlp = FeedForward(config.width, config.mlp_ratio, "swiglu", bias=False)
        self.cross = memory_width is not None

    def forward(
        self,
        x: Tensor,
        *,
        place: Tensor,
        mask: Tensor | None,
        causal: bool,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        kept: tuple[LayerCache, LayerCache] | None,
    ) -> Tensor:
        own, of_memory = kept or (None, None)
        normed = self.norm(x)
        if self.cross:
            found = self.attn(normed, memory, mask=memory_mask, kept=of_memory)
        else:
            found = self.attn(normed, place=place, mask=mask, causal=causal, kept=own)
        return x + found + self.mlp(normed)


class ParallelStack(nn.Module):
    """Parallel blocks, called as a `Transformer`; with `memory_width` each is followed by one that
    reads a memory. `place` are the tokens' places (N,) or (B, N), by default 0, 1, …"""

    def __init__(self, config: "ParallelConfig", depth: int, memory_width: int | None = None):
        super().__init__()
        layers = []
        for _ in range(depth):
            layers.append(ParallelBlock(config))
            if memory_width is not None:
                layers.append(ParallelBlock(config, memory_width))
        self.layers = nn.ModuleList(layers)
        init(self, config.width, len(layers))

    def forward(
        self,
        tokens: Tensor,
        edit: Edit | None = None,
        *,
        place: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Run the layers on tokens (B, N, D); keywords as in `Transformer.forward`. Layers that read a
        memory are left out where there is none."""
        if place is None:
            place = torch.arange(tokens.shape[1], device=tokens.device)
        how: dict[str, Any] = {"mask": mask, "causal": causal, "memory_mask": memory_mask}
        for layer, block in enumerate(self.layers):
            if block.cross and memory is None:
                continue
            if edit is not None:
                tokens = edit(layer, tokens)
            kept = None if cache is None else (cache.own[layer], cache.cross[layer])
            tokens = block(tokens, place=place, memory=memory, kept=kept, **how)
        return tokens


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(TextConfig):
    """Options of `urbanclip.parallel`; of those of `text` it has width, depth, heads, mlp_ratio and
    eps. `head_width` is the width of a head."""

    width: int = 512
    mlp_ratio: float = _GATED
    pooling: Any = "cls"
    head_width: Count = 64

    def __post_init__(self) -> None:
        if self.head_width % 2:
            raise InputError(
                f"head_width is {self.head_width}; rotary positions turn pairs of channels, so give an even number"
            )
        if self.pooling != "cls" or not self.causal or self.padding == "max":
            raise InputError(
                "urbanclip.parallel is causal, pools a learned token and pads to the longest text; leave out pooling, "
                "causal and padding"
            )
        super().__post_init__()


@text("urbanclip.parallel")
class ParallelTower(TextTower):
    """A causal text tower of parallel blocks with a learned token behind the text, which sees the words
    and no padding, and which no word sees. Its place is that behind the context.

    >>> config = ParallelConfig(vocab_size=100, context=16, width=64, depth=2, head_width=16)
    >>> tower = ParallelTower(config)
    >>> tower(torch.ones(3, 5, dtype=torch.long), torch.tensor([5, 3, 4])).pooled.shape
    torch.Size([3, 64])
    """

    Config = ParallelConfig
    positions: Tensor

    def __init__(self, config: ParallelConfig):
        Tower.__init__(self, config)
        self.width = config.width
        self.table = nn.Embedding(config.vocab_size, config.width)
        self.cls = nn.Parameter(torch.randn(1, config.width) * 0.01)
        # words have no positions but those of attention
        none = torch.zeros(config.context + 1, config.width)
        self.register_buffer("positions", none, persistent=False)
        self.transformer = ParallelStack(config, config.depth)
        self.norm = nn.LayerNorm(config.width, config.eps, bias=False)
        nn.init.normal_(self.table.weight, std=0.02)

    def blocks(
        self,
        tokens: Tensor,
        edit: Edit | None = None,
        *,
        causal: bool | None = None,
        place: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Run the blocks on tokens (N, L, D), by default those of words with the learned token
        behind."""
        if place is None:
            place = torch.arange(tokens.shape[1], device=tokens.device)
            place[-1] = self.context
        causal = self.config.causal if causal is None else causal
        return self.transformer(tokens, edit, causal=causal, place=place, **options)

    def resize(self, context: int, keep: int = 0) -> None:
        """Raises InputError: the place of the learned token is a part of what was learnt."""
        raise InputError(
            "urbanclip.parallel has the context that it was trained with; begin with another tokenizer"
        )


class ParallelLM(MultimodalLM):
    """The tower `tower`, continued by as many parallel blocks that each have one behind them that reads
    a memory of width `memory_width`; the output layer is the tower's table.

    Raises InputError for another tower.
    """

    def __init__(self, tower: Tower | None, memory_width: int):
        nn.Module.__init__(self)
        if not isinstance(tower, ParallelTower):
            raise InputError(
                "decoder=parallel continues a text tower urbanclip.parallel, which this model has not; choose "
                "--text-tower urbanclip.parallel, or another decoder"
            )
        self.form = FORM
        self._tower = (tower,)  # a tuple, so that its parameters are registered once
        config = tower.config
        self.decoder = ParallelStack(config, config.depth, memory_width)
        self.norm = nn.LayerNorm(config.width, config.eps, bias=False)
        self.plain = {"decoder": FORM, "memory_width": memory_width}

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.table.weight)

    def forward(
        self,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        prefix: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """As `CausalLM.forward`; only real tokens have places."""
        x, place = self._embedded(ids, mask, prefix)
        return self._decoded(x, mask=mask, place=place, **options)

    def _peeked(self, state: State, ids: Tensor, lengths: Tensor) -> tuple[Tensor, KVCache]:
        cache = state.cache.select()
        hidden = self._decoded(
            self.table(ids),
            mask=candidates_mask(state.mask, ids.shape[1]),
            place=lengths[:, None].expand_as(ids),
            memory=state.memory,
            memory_mask=state.memory_mask,
            causal=False,  # the mask says it all
            cache=cache,
        )
        return hidden, cache
