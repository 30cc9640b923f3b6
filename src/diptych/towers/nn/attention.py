"""Multi-head attention, over the tokens themselves or over a memory.

Dimensions: B samples, N tokens, M memory tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.towers.nn.fused import join, project
from diptych.towers.nn.kv_cache import LayerCache
from diptych.towers.nn.product import run


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
