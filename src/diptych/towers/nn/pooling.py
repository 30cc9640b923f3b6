"""Attentional pooling: learned queries that read the tokens of a tower.

Dimensions: B samples, N tokens, M queries, D width of the queries.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diptych.errors import InputError, unknown
from diptych.spec import Count, Natural, configure, parse
from diptych.towers.encoded import Encoded
from diptych.towers.nn.attention import Attention
from diptych.towers.nn.transformer import FeedForward, init


class QueryPooler(nn.Module):
    """The attentional pooler: one layer of attention of `queries` learned queries over a memory,
    without residual and feed-forward layer, between norms.

        norm(attention(norm_query(query), memory))

    The memory comes normalised, as a tower's tokens do. Source: Yu et al., 2022 (CoCa).

    >>> QueryPooler(8, heads=2, queries=3, memory_width=6)(torch.zeros(2, 5, 6)).shape
    torch.Size([2, 3, 8])
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        queries: int,
        memory_width: int | None = None,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width))
        self.norm_query = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads, memory_width=memory_width)
        self.norm = nn.LayerNorm(width, eps)
        init(self, width, 1)

    def forward(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Memory (B, N, ·), and a mask (B, N) of what is real -> (B, M, D)."""
        query = self.norm_query(self.query).expand(len(memory), -1, -1)
        return self.norm(self.attn(query, memory, mask=mask))

    def alone(self, memory: Tensor) -> Tensor:
        """What each query gives if a token is the only one in memory, for each token of a memory
        (B, N, ·): (B, N, D)."""
        return self.norm(self.attn.values(memory))


class ResamplerBlock(nn.Module):
    """One layer of a `Resampler`, without biases in its linear layers.

        latents += attention(norm_query(latents), [norm x; norm_latents(latents)])
        latents += mlp(norm2(latents))

    `norm_query` says whether queries are normalised, as keys and values are.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        head_width: int,
        mlp_ratio: float,
        norm_query: bool,
        eps: float,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.norm_latents = nn.LayerNorm(width, eps)
        self.norm_query = norm_query
        self.attn = Attention(width, heads, inner=heads * head_width, bias=False, out_bias=False)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = FeedForward(width, mlp_ratio, "gelu", bias=False)

    def forward(self, latents: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.norm_latents(latents)
        memory = torch.cat([self.norm(x), normed], 1)
        query = normed if self.norm_query else latents
        latents = latents + self.attn(query, memory, mask=mask)
        return latents + self.mlp(self.norm2(latents))


class Resampler(nn.Module):
    """The Perceiver resampler: `queries` learned latents that read a sequence of any length, and
    each other, in `depth` layers (`ResamplerBlock`), with a norm behind the last.

    `norm_bias` says whether that norm has a bias. With `frames` or `media`, the frames of a clip, or
    the media of a sequence, have learned positions, for up to so many of them. Source: Alayrac et al.,
    2022 (Flamingo).

    >>> Resampler(8, queries=3, depth=2, heads=2, head_width=4)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 3, 8])
    """

    def __init__(
        self,
        width: int,
        *,
        queries: int = 64,
        depth: int = 6,
        heads: int = 8,
        head_width: int = 64,
        mlp_ratio: float = 4.0,
        norm_query: bool = True,
        norm_bias: bool = True,
        frames: int = 0,
        media: int = 0,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(queries, width))
        self.frames = nn.Parameter(torch.randn(frames, width)) if frames else None
        self.media = nn.Parameter(torch.randn(media, width)) if media else None
        shape = {"heads": heads, "head_width": head_width, "mlp_ratio": mlp_ratio}
        self.layers = nn.ModuleList(
            ResamplerBlock(width, **shape, norm_query=norm_query, eps=eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps, bias=norm_bias)
        init(self, width, depth)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """A sequence (B, N, D), and a mask (B, N) of what is real -> (B, M, D)."""
        latents = self.latents.expand(len(x), -1, -1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], 1)
        for layer in self.layers:
            latents = layer(latents, x, mask)
        return self.norm(latents)

    def read(self, x: Tensor) -> Tensor:
        """The tokens (B, T, F, N, D) of T media of F frames each -> (B, T, M, D). The frames of a
        medium are read side by side. Raises InputError for more of them than have positions."""
        for what, positions, count, shape in (
            ("frames", self.frames, x.shape[2], (1, 1, -1, 1, x.shape[-1])),
            ("media", self.media, x.shape[1], (1, -1, 1, 1, x.shape[-1])),
        ):
            if positions is None:
                continue
            if count > len(positions):
                raise InputError(
                    f"{count} {what} were given, and {len(positions)} have positions; give fewer"
                )
            x = x + positions[:count].view(shape)
        return self(x.flatten(2, 3).flatten(0, 1)).unflatten(0, x.shape[:2])


POOLERS = ("cascade", "parallel", "one")


@dataclass(frozen=True, kw_only=True)
class PoolersConfig:
    """Options of `Poolers`: the number of queries for a decoder (0: none, it reads the tokens), the
    heads of both poolers (None: width / 64), and up to how many frames of a clip have learned positions
    in time (0: none)."""

    queries: Natural = 256
    heads: Count | None = None
    frames: Natural = 0


class Poolers(nn.Module):
    """The two attentional poolers of CoCa: M queries for a decoder, and one whose output is the
    pooled vector.

    `cascade` pools the vector from the M queries, `parallel` from the tokens:
    `cascade:queries=256:heads=8`. `one` is a single pooler, as in open_clip: its first query is the
    pooled vector, and the others are a decoder's. Of a clip they read the tokens of all frames. These have no order but
    by `frames`, positions that are added to the tokens of each frame and are 0 at the start; an image
    has none. Source: Yu et al., 2022 (CoCa).

    >>> encoded = Encoded(torch.zeros(2, 5, 8), torch.zeros(2, 8))
    >>> found = Poolers("cascade:queries=3", 8)(encoded)
    >>> found.queries.shape, found.pooled.shape
    (torch.Size([2, 3, 8]), torch.Size([2, 8]))
    """

    def __init__(self, spec: str, width: int):
        super().__init__()
        parsed = parse(spec)
        if parsed.name not in POOLERS:
            raise unknown("image pooler", parsed.name, POOLERS)
        config = configure(PoolersConfig, parsed.options, "image pooler")
        heads = config.heads or max(1, width // 64)
        self.one = parsed.name == "one"
        self.cascade = parsed.name != "parallel"  # the pooled vector depends on the M queries
        if self.one and config.queries < 2:
            raise InputError(
                f"image pooler one has queries={config.queries}; the first is pooled and the others are read by a "
                "decoder, so give two at least"
            )
        self.generative = (
            QueryPooler(width, heads=heads, queries=config.queries) if config.queries else None
        )
        self.contrastive = None if self.one else QueryPooler(width, heads=heads, queries=1)
        self.frames = nn.Parameter(torch.zeros(config.frames, width)) if config.frames else None

    def in_time(self, tokens: Tensor) -> Tensor:
        """The tokens (B, V, N, D) of V frames with their positions in time. Raises InputError for more
        frames than have positions."""
        if self.frames is None:
            return tokens
        count = tokens.shape[1]
        if count > len(self.frames):
            raise InputError(
                f"{count} frames were given, and {len(self.frames)} have positions; give fewer, frames=N"
            )
        return tokens + self.frames[:count, None]

    def forward(self, encoded: Encoded) -> Encoded:
        """The encoded images with both poolers' outputs in place of what the tower pooled."""
        if self.contrastive is None:
            assert self.generative is not None, "a single pooler has queries"
            found = self.generative(*_after_prefix(encoded))
            return replace(encoded, pooled=found[:, 0], queries=found[:, 1:])
        encoded = self.for_decoder(encoded)
        if self.cascade and encoded.queries is not None:
            pooled = self.contrastive(encoded.queries)
        else:
            pooled = self.contrastive(*_after_prefix(encoded))
        return replace(encoded, pooled=pooled[:, 0])

    def for_decoder(self, encoded: Encoded) -> Encoded:
        """The encoded images with the decoder's queries, if it has some."""
        if self.generative is None:
            return encoded
        queries = self.generative(*_after_prefix(encoded))
        return replace(encoded, queries=queries[:, 1:] if self.one else queries)

    def alone(self, tokens: Tensor) -> Tensor:
        """What would be pooled if a token was the only one, for each of tokens (B, N, D): (B, N, D)."""
        if self.cascade and self.generative is not None:
            tokens = self.generative.alone(tokens)
        return tokens if self.contrastive is None else self.contrastive.alone(tokens)


def _after_prefix(encoded: Encoded) -> tuple[Tensor, Tensor | None]:
    """The tokens of encoded images behind their prefix, and the mask of those that are real."""
    tokens = encoded.tokens[:, encoded.prefix :]
    return tokens, None if encoded.mask is None else encoded.mask[:, encoded.prefix :]
