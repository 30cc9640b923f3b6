"""The transformer of our towers: feed-forward layers, blocks and their stack.

Every projection is a plain `nn.Linear` named q, k, v, out, fc1 or fc2, so that LoRA, quantisation and
export work.

Dimensions: B samples, N tokens, M memory tokens, D width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError, unknown
from diptych.towers.encoded import Edit
from diptych.towers.nn.attention import Attention
from diptych.towers.nn.kv_cache import KVCache, LayerCache
from diptych.towers.nn.product import run


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x): the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
}
GATED = "swiglu"
"""The activation of a feed-forward layer with a gate."""


class FeedForward(nn.Module):
    """fc2(activation(fc1 x)), hidden width H = `round(width * ratio)`.

    "swiglu" (Shazeer, 2020) is fc2(silu(a) · b) with (a, b) = fc1 x, each of width 2/3 H, rounded
    down and then up to a multiple of 8, so that it has about as many weights.
    """

    def __init__(self, width: int, ratio: float, activation: str, *, bias: bool = True):
        super().__init__()
        if activation not in (*ACTIVATIONS, GATED):
            raise unknown("activation", activation, (*ACTIVATIONS, GATED))
        hidden = round(width * ratio)
        gated = activation == GATED
        if gated:
            hidden = -(-(2 * hidden // 3) // 8) * 8
        self.fc1 = nn.Linear(width, hidden * (1 + gated), bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)
        self.activation = _gate if gated else ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return run(self.fc2, self.activation(run(self.fc1, x)))


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return F.silu(a) * b


class LayerScale(nn.Module):
    """One learned factor per channel."""

    def __init__(self, width: int, init: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """x += attention(norm x); with `cross` and a memory, x += attention(norm x, memory); x +=
    mlp(norm x)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float,
        activation: str,
        eps: float,
        layer_scale: float | None,
        dropout: float,
        cross: bool,
        memory_width: int | None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads, dropout=dropout)
        self.scale1 = _scale(width, layer_scale)
        self.norm_cross = nn.LayerNorm(width, eps) if cross else None
        self.cross = (
            Attention(width, heads, memory_width=memory_width, dropout=dropout) if cross else None
        )
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = FeedForward(width, mlp_ratio, activation)
        self.scale2 = _scale(width, layer_scale)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        kept: tuple[LayerCache, LayerCache] | None = None,
    ) -> Tensor:
        own, of_memory = kept or (None, None)
        x = x + self.dropout(
            self.scale1(self.attn(self.norm1(x), mask=mask, causal=causal, kept=own))
        )
        if memory is not None and self.cross is not None and self.norm_cross is not None:
            x = x + self.dropout(
                self.cross(self.norm_cross(x), memory, mask=memory_mask, kept=of_memory)
            )
        return x + self.dropout(self.scale2(self.mlp(self.norm2(x))))

    def values(self, x: Tensor) -> Tensor:
        """The block in inference if each token of x (B, N, D) attends to itself alone."""
        x = x + self.scale1(self.attn.values(self.norm1(x)))
        return x + self.scale2(self.mlp(self.norm2(x)))


class PostNormBlock(Block):
    """x = norm(x + attention x); with `cross` and a memory, x = norm(x + attention(x, memory)); x =
    norm(x + mlp x): the layer of BERT (Devlin et al., 2019)."""

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        kept: tuple[LayerCache, LayerCache] | None = None,
    ) -> Tensor:
        own, of_memory = kept or (None, None)
        found = self.scale1(self.attn(x, mask=mask, causal=causal, kept=own))
        x = self.norm1(x + self.dropout(found))
        if memory is not None and self.cross is not None and self.norm_cross is not None:
            found = self.cross(x, memory, mask=memory_mask, kept=of_memory)
            x = self.norm_cross(x + self.dropout(found))
        return self.norm2(x + self.dropout(self.scale2(self.mlp(x))))

    def values(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.scale1(self.attn.values(x)))
        return self.norm2(x + self.scale2(self.mlp(x)))


class AttentionBlock(nn.Module):
    """x += attention(norm x): a block without a feed-forward layer, called as a `Block`; a memory is
    not read."""

    cross = None

    def __init__(
        self, width: int, heads: int, *, eps: float, layer_scale: float | None, dropout: float
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads, dropout=dropout)
        self.scale1 = _scale(width, layer_scale)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        kept: tuple[LayerCache, LayerCache] | None = None,
    ) -> Tensor:
        own = None if kept is None else kept[0]
        found = self.attn(self.norm1(x), mask=mask, causal=causal, kept=own)
        return x + self.dropout(self.scale1(found))


class CrossBlock(nn.Module):
    """x += cross(norm x, norm_memory(memory)); x += mlp(norm2 x): a layer of cross-attention of its
    own, with a norm of the memory and a feed-forward layer.

    Called as a `Block`; the key mask, that of the tokens, is not used. A stack leaves it out where
    there is no memory.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float,
        activation: str,
        eps: float,
        layer_scale: float | None,
        dropout: float,
        memory_width: int | None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.norm_memory = nn.LayerNorm(memory_width or width, eps)
        self.cross = Attention(width, heads, memory_width=memory_width, dropout=dropout)
        self.scale1 = _scale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = FeedForward(width, mlp_ratio, activation)
        self.scale2 = _scale(width, layer_scale)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        kept: tuple[LayerCache, LayerCache] | None = None,
    ) -> Tensor:
        assert memory is not None, "a layer of cross-attention alone reads a memory"
        of_memory = None if kept is None else kept[1]
        if of_memory is None or not len(of_memory):
            memory = self.norm_memory(memory)
        found = self.cross(self.norm1(x), memory, mask=memory_mask, kept=of_memory)
        x = x + self.dropout(self.scale1(found))
        return x + self.dropout(self.scale2(self.mlp(self.norm2(x))))


BLOCKS = (Block, AttentionBlock, CrossBlock)
"""The kinds of layers of a `Transformer`."""


def _scale(width: int, init: float | None) -> nn.Module:
    return nn.Identity() if init is None else LayerScale(width, init)


class Transformer(nn.Module):
    """A stack of pre-norm blocks without a final norm; with `post_norm` of blocks as in BERT, which end
    with a norm each.

    Of the layers from `cross` on, every `cross_every`-th has cross-attention; with `cross_alone`
    these are layers of cross-attention alone (`CrossBlock`), and with `lean` the blocks before them
    have no feed-forward layer.

    Initialised as CLIP's text tower (Radford et al., 2021): standard deviations D^-1/2 for q, k, v,
    (2 D)^-1/2 for fc1 and (2 D depth)^-1/2 for the layers that write to the residual stream; biases
    0.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int | None = None,
        *,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        eps: float = 1e-5,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        cross: int | None = None,
        cross_every: int = 1,
        cross_alone: bool = False,
        lean: bool = False,
        post_norm: bool = False,
        memory_width: int | None = None,
    ):
        super().__init__()
        heads = heads or max(1, width // 64)
        shape: dict[str, Any] = {"eps": eps, "layer_scale": layer_scale, "dropout": dropout}
        fed = {
            **shape,
            "mlp_ratio": mlp_ratio,
            "activation": activation,
            "memory_width": memory_width,
        }
        reads = range(depth if cross is None else cross, depth, cross_every)

        def block(layer: int) -> nn.Module:
            if cross_alone and layer in reads:
                return CrossBlock(width, heads, **fed)
            if lean and layer + 1 in reads:
                return AttentionBlock(width, heads, **shape)
            kind = PostNormBlock if post_norm else Block
            return kind(width, heads, cross=layer in reads, **fed)

        self.layers = nn.ModuleList(map(block, range(depth)))
        init(self, width, depth)

    def forward(
        self,
        tokens: Tensor,
        edit: Edit | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        start: int = 0,
        stop: int | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Run layers start … stop-1 on (B, N, D), with `edit(layer, tokens)` applied to the input
        of each.

        `mask` (B, N) is True where a token may be attended to; it must match the tokens as edited.
        Blocks with cross-attention attend to `memory` (B, M, ·), where `memory_mask` (B, M) or (B,
        N, M) is True. With a `cache`, the tokens follow those already in it, the mask covers all of
        them, and the new ones are appended to it. Raises InputError for a memory that no layer
        reads, and for an edit that makes the tokens longer than the mask.
        """
        layers = list(self.layers)[start:stop]
        if memory is not None and all(block.cross is None for block in layers):
            raise InputError(
                f"layers {start}:{stop} have no cross-attention for this memory; build with cross=LAYER"
            )
        for layer, block in enumerate(layers, start):
            own = not isinstance(block, CrossBlock)  # attends to the tokens
            if not own and memory is None:
                continue
            if edit is not None:
                tokens = edit(layer, tokens)
            kept = None if cache is None else (cache.own[layer], cache.cross[layer])
            count = tokens.shape[1] + (0 if kept is None else len(kept[0]))
            if own and mask is not None and mask.shape[-1] != count:
                raise InputError(
                    f"the key mask has {mask.shape[-1]} places, layer {layer} {count} tokens: give a mask for"
                    " the tokens as edited, or an edit that keeps their number"
                )
            tokens = block(
                tokens, mask=mask, causal=causal, memory=memory, memory_mask=memory_mask, kept=kept
            )
        return tokens


def init(module: nn.Module, width: int, depth: int) -> None:
    """Initialise the linear layers of blocks and poolers by their names (see `Transformer`)."""
    residual = (2 * depth * width) ** -0.5
    std = {
        "q": width**-0.5,
        "k": width**-0.5,
        "v": width**-0.5,
        "out": residual,
        "fc1": (2 * width) ** -0.5,
        "fc2": residual,
    }
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std[name.rpartition(".")[2]])
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
