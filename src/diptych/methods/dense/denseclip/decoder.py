"""The context decoder of DenseCLIP: queries that read the vectors of an image.

    x = x + SelfAttn(LN x);   x = x + CrossAttn(LN x, memory);   x = x + MLP(LN x)

Dimensions: B images, Q queries, M vectors of an image, D width of the queries, E of the memory.
"""

from torch import Tensor, nn

from diptych.towers.nn.attention import Attention
from diptych.towers.nn.transformer import FeedForward

STD = 0.02
"""The standard deviation of new weights."""


class ContextLayer(nn.Module):
    """Self-attention of queries, attention to a memory, and a feed-forward layer, each with a norm
    before it. Queries, keys and values have no bias; the memory is not normalised."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.cross = Attention(width, heads, bias=False)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, 4.0, "gelu")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.dropout(self.attn(self.norm1(x)))
        x = x + self.dropout(self.cross(self.norm2(x), memory))
        return x + self.dropout(self.mlp(self.norm3(x)))


class ContextDecoder(nn.Module):
    """Map queries (B, Q, D) and a memory (B, M, E) to (B, Q, D).

    There are no positions: the order of queries, and that of the memory, has no meaning.

    >>> import torch
    >>> decoder = ContextDecoder(8, 12, width=16)
    >>> decoder(torch.zeros(2, 5, 8), torch.zeros(2, 7, 12)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        *,
        width: int = 256,
        heads: int = 4,
        depth: int = 3,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.memory_proj = nn.Sequential(
            nn.LayerNorm(memory_width), nn.Linear(memory_width, width), nn.LayerNorm(width)
        )
        self.text_proj = nn.Sequential(nn.LayerNorm(query_width), nn.Linear(query_width, width))
        self.layers = nn.ModuleList(ContextLayer(width, heads, dropout) for _ in range(depth))
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, query_width))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        memory = self.memory_proj(memory)
        x = self.text_proj(queries)
        for layer in self.layers:
            x = layer(x, memory)
        return self.out_proj(x)
