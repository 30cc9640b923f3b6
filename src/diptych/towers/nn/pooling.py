"""Attentional pooling: learned queries that read the tokens of a tower.

Dimensions: B samples, N tokens, M queries, D width of the queries.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diptych.errors import unknown
from diptych.spec import Count, Natural, configure, parse
from diptych.towers.encoded import Encoded
from diptych.towers.nn.transformer import Attention, init


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


POOLERS = ("cascade", "parallel")


@dataclass(frozen=True, kw_only=True)
class PoolersConfig:
    """Options of `Poolers`: the number of queries for a decoder (0: none, it reads the tokens), and
    the heads of both poolers (None: width / 64)."""

    queries: Natural = 256
    heads: Count | None = None


class Poolers(nn.Module):
    """The two attentional poolers of CoCa: M queries for a decoder, and one whose output is the
    pooled vector.

    `cascade` pools the vector from the M queries, `parallel` from the tokens:
    `cascade:queries=256:heads=8`. Source: Yu et al., 2022 (CoCa).

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
        self.cascade = parsed.name == "cascade"
        self.generative = (
            QueryPooler(width, heads=heads, queries=config.queries) if config.queries else None
        )
        self.contrastive = QueryPooler(width, heads=heads, queries=1)

    def forward(self, encoded: Encoded) -> Encoded:
        """The encoded images with both poolers' outputs in place of what the tower pooled."""
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
        return replace(encoded, queries=self.generative(*_after_prefix(encoded)))

    def alone(self, tokens: Tensor) -> Tensor:
        """What would be pooled if a token was the only one, for each of tokens (B, N, D): (B, N, D)."""
        if self.cascade and self.generative is not None:
            tokens = self.generative.alone(tokens)
        return self.contrastive.alone(tokens)


def _after_prefix(encoded: Encoded) -> tuple[Tensor, Tensor | None]:
    """The tokens of encoded images behind their prefix, and the mask of those that are real."""
    tokens = encoded.tokens[:, encoded.prefix :]
    return tokens, None if encoded.mask is None else encoded.mask[:, encoded.prefix :]
