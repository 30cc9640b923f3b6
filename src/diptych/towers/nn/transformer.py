"""The pre-norm transformer of our towers, and edits, by which prompts and the like reach its
residual stream.

Order of the module: attention, feed-forward, blocks, stack, edits. Every projection is a plain
`nn.Linear` named q, k, v, out, fc1 or fc2, so that LoRA, quantisation and export work.

Dimensions: B samples, N tokens, M memory tokens, D width, b inserted tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError, unknown
from diptych.towers.encoded import Edit
from diptych.towers.nn.fused import join, project
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


class Attention(nn.Module):
    """Multi-head attention: softmax(q k^T / sqrt(D / heads)) v, over the tokens themselves or over
    a memory.

    `mask` is True where a key may be attended to: (B, M), the same for all queries, or (B, N, M). A
    query with no such key yields the bias of `out`, or 0. `bias` sets whether q, k and v have a bias,
    `out_bias` whether `out` has one. `inner` is the width of all heads together (None: D), and
    `scale` the factor of the products in place of its default (inner / heads)^-1/2.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        memory_width: int | None = None,
        inner: int | None = None,
        scale: float | None = None,
        bias: bool = True,
        out_bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        inner = inner or width
        if inner % heads:
            raise InputError(
                f"width {inner} cannot be split over {heads} heads; choose heads that divide the width"
            )
        self.heads = heads
        self.dropout = dropout
        # of the queries, so that every product has its usual scale
        self.factor = None if scale is None else scale * (inner / heads) ** 0.5
        self.q = nn.Linear(width, inner, bias=bias)
        self.k = nn.Linear(memory_width or width, inner, bias=bias)
        self.v = nn.Linear(memory_width or width, inner, bias=bias)
        self.out = nn.Linear(inner, width, bias=out_bias)
        self.qkv: nn.Module | None = None  # replaces the three where int8 packs them into one

    def join(self) -> None:
        """Store the weights of q, k and v contiguously, so that self-attention computes them as one
        product in inference."""
        join((self.q, self.k, self.v))

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        kept: LayerCache | None = None,
    ) -> Tensor:
        """Attend from x (B, N, D); keys and values come from `memory` (B, M, memory width) if
        given.

        With the cache `kept`, x are the last N of M tokens, the mask covers all M, and the cache
        provides the earlier keys and values. Those of a memory are computed at the first call only.
        """
        if memory is None:
            q, k, v = self._own(x)
            if kept is not None:
                k, v = kept.extend(k, v)
        else:
            q = self._query(run(self.q, x))
            if kept is not None and kept.keys is not None and kept.values is not None:
                k = kept.keys
                v = kept.values
            else:
                k = self._heads(run(self.k, memory))
                v = self._heads(run(self.v, memory))
                if kept is not None:
                    kept.extend(k, v)
        if mask is not None:
            mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        y = attend(
            q, k, v, mask=mask, causal=causal, dropout=self.dropout if self.training else 0.0
        )
        return run(self.out, y.transpose(1, 2).flatten(2))

    def values(self, x: Tensor) -> Tensor:
        """What `forward` gives where one token is all that is attended to, for each of x (B, N, ·):
        the tokens themselves, or a memory."""
        v = run(self.v, x) if self.qkv is None else self.qkv(x).chunk(3, dim=-1)[2]
        return run(self.out, v)

    def weights(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """The attention weights (B, heads, N, M) of x (B, N, D) over the memory (B, M, ·), or over
        x itself (M = N); `mask` and `causal` as in `forward`."""
        if memory is None:
            q, k, _ = self._own(x)
        else:
            q = self._query(self.q(x))
            k = self._heads(self.k(memory))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if mask is not None:
            mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
        return scores.softmax(-1)

    def _own(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The queries, keys and values (B, heads, N, D / heads) of self-attention."""
        if self.qkv is None:
            q, k, v = project((self.q, self.k, self.v), x)
        else:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self._query(q), self._heads(k), self._heads(v)

    def _query(self, q: Tensor) -> Tensor:
        """Queries (B, N, inner) -> (B, heads, N, inner / heads), scaled."""
        return self._heads(q if self.factor is None else q * self.factor)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, heads, N, D / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


SHORT = 256
"""The most tokens for which attention trained in bfloat16 on a CPU uses two plain batched
products."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q (B, heads, N, d) and k, v (B, heads, M, d).

    The N tokens are the last of the M.

    `mask` (…, N or 1, M) is True where a key may be attended to. torch's fused kernel computes it,
    except for short sequences trained in bfloat16 on a CPU, where the kernel's backward pass takes
    two to six times as long as plain products.
    """
    N = q.shape[2]
    M = k.shape[2]
    plain = (
        q.dtype == torch.bfloat16
        and q.device.type == "cpu"
        and q.requires_grad
        and max(N, M) <= SHORT
    )
    if causal and (
        plain or mask is not None or N < M
    ):  # the kernel aligns its causal mask to the first key
        before = torch.ones(N, M, dtype=torch.bool, device=q.device).tril(M - N)
        mask = before if mask is None else mask & before
    if not plain:
        alone = causal and mask is None
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=alone, dropout_p=dropout
        )
    with torch.autocast(
        "cpu", enabled=False
    ):  # it would cast the softmax, which already sums in float32
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is None:
            return F.dropout(scores.softmax(-1), dropout) @ v
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
        return (
            F.dropout(weights.masked_fill(~mask, 0.0), dropout) @ v
        )  # a query without keys gets zeros


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
    """A stack of pre-norm blocks without a final norm, or with `post_norm` of blocks as BERT's, which
    end with one. Of the layers from `cross` on, every
    `cross_every`-th has cross-attention; with `cross_alone` these are layers of cross-attention
    alone (`CrossBlock`), and with `lean` the blocks before them have no feed-forward layer.

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


@dataclass(frozen=True, eq=False)
class Insert:
    """An edit that puts `values` (b, D) or (B, b, D) into the stream at the input of block `layer`.

    `at` is a position, counted from the end if negative, or one position per sample (B,), such as
    `lengths - 1` for EOT. The `placement` "replace" overwrites positions at … at+b-1; "before" and
    "after" insert next to position `at`. Raises InputError if the values do not fit. It serves
    prompt tuning as in Khattak et al., 2023 (MaPLe).

    >>> tokens = torch.arange(4.0).view(1, 4, 1)
    >>> prompt = torch.tensor([[7.0], [8.0]])
    >>> Insert(prompt, layer=0, at=1)(0, tokens).flatten().tolist()
    [0.0, 7.0, 8.0, 3.0]
    >>> Insert(prompt, layer=0, at=-1, placement="after")(0, tokens).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0, 7.0, 8.0]
    """

    values: Tensor
    layer: int
    at: int | Tensor
    placement: Literal["replace", "before", "after"] = "replace"

    def __call__(self, layer: int, tokens: Tensor) -> Tensor:
        if layer != self.layer:
            return tokens
        (B, N, _) = tokens.shape
        values = self.values.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        b = values.shape[1]
        # Positions that the values overwrite.
        taken = values.shape[1] if self.placement == "replace" else 0
        start = self.at + N * (self.at < 0) + (self.placement == "after")
        if not torch.compiler.is_compiling() and bool(
            torch.as_tensor((start < 0) | (start > N - taken)).any()
        ):
            raise InputError(
                f"{b} tokens at {self.at} ({self.placement}) do not fit into the {N} tokens of layer {layer}"
            )
        if isinstance(start, int):
            return torch.cat([tokens[:, :start], values, tokens[:, start + taken :]], dim=1)
        place = torch.arange(N + b - taken, device=tokens.device)
        start = start.view(B, 1)
        kept = torch.where(place < start, place, place - b + taken).clamp(min=0)
        source = torch.where((place >= start) & (place < start + b), N + place - start, kept)
        return torch.cat([tokens, values], dim=1).gather(
            1, source[..., None].expand(-1, -1, tokens.shape[2])
        )


def chain(*edits: Edit) -> Edit:
    """One edit that applies several in order."""

    def edit(layer: int, tokens: Tensor) -> Tensor:
        for one in edits:
            tokens = one(layer, tokens)
        return tokens

    return edit


@contextmanager
def edited(layers: Sequence[nn.Module], edit: Edit | None) -> Iterator[None]:
    """Context in which `edit` is applied to the first argument of each of a foreign model's
    `layers`."""

    def hook(layer: int) -> Callable:
        return lambda _, args: (edit(layer, args[0]), *args[1:]) if edit is not None else None

    handles = (
        [block.register_forward_pre_hook(hook(i)) for i, block in enumerate(layers)]
        if edit is not None
        else []
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stretch(positions: Tensor, length: int, keep: int = 0) -> Tensor:
    """Resample positions (L, D) linearly to (length, D), without the first `keep` (Zhang et al.,
    2024: 20).

    >>> stretch(torch.tensor([[0.0], [1.0], [2.0]]), 5, keep=1).flatten().tolist()
    [0.0, 1.0, 1.333..., 1.666..., 2.0]
    """
    assert 0 <= keep < min(length, len(positions))
    moved = F.interpolate(
        positions[keep:].T[None], size=length - keep, mode="linear", align_corners=True
    )
    return torch.cat([positions[:keep], moved[0].T])
