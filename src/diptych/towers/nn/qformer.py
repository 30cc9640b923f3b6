"""The Q-Former, which fuses images and texts: learned queries attend to an image and share a stream
with a text.

Dimensions: B samples, M queries, L text tokens, K inserted vectors, N tokens in all, T image
tokens, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.towers.encoded import Encoded
from diptych.towers.nn.edits import Insert
from diptych.towers.nn.kv_cache import LayerCache
from diptych.towers.nn.transformer import Block, FeedForward, init

STD = 0.02  # of queries, words and positions, as in BERT
Visible = Literal["all", "apart", "causal"]
"""What queries and text read of each other: everything, nothing, or the text the queries and its own
earlier tokens, and the queries no text."""


@dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    """Options of a Q-Former. The defaults are BLIP-2's, a BERT-base."""

    vocab_size: int
    memory_width: int  # of the image's tokens
    width: int = 768
    depth: int = 12
    heads: int | None = None  # width / 64
    queries: int = 32
    every: int = 2  # layers 0, every, 2 every, … attend to the image
    positions: int = 512  # the most tokens of a text, inserted vectors included
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "memory_width",
            "width",
            "depth",
            "queries",
            "every",
            "positions",
        ):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} of a Q-Former is {getattr(self, name)}; it must be at least 1"
                )


class QueryBlock(Block):
    """A post-norm BERT block whose first tokens may be queries.

    With a memory (B, T, ·), the first `queries` tokens attend to it, if the block has
    cross-attention, and pass through a separate feed-forward layer, which is initialised as a copy
    of the words'. Without a memory, all tokens are treated as words.
    """

    def __init__(self, config: QFormerConfig, layer: int):
        D = config.width
        heads = config.heads or max(1, config.width // 64)
        super().__init__(
            D,
            heads,
            mlp_ratio=4.0,
            activation="gelu",
            eps=1e-12,
            layer_scale=None,
            dropout=config.dropout,
            cross=layer % config.every == 0,
            memory_width=config.memory_width,
        )
        self.query_mlp = FeedForward(D, 4.0, "gelu")
        self.query_norm = nn.LayerNorm(D, 1e-12)

    def forward(  # type: ignore[override]  # of a pre-norm block
        self,
        x: Tensor,
        *,
        queries: int = 0,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        kept: LayerCache | None = None,
    ) -> Tensor:
        x = self.norm1(x + self.dropout(self.attn(x, mask=mask, kept=kept)))
        if memory is None:
            return self.norm2(x + self.dropout(self.mlp(x)))
        first = x[:, :queries]
        words = x[:, queries:]
        if self.cross is not None and self.norm_cross is not None:
            first = self.norm_cross(first + self.dropout(self.cross(first, memory)))
        first = self.query_norm(first + self.dropout(self.query_mlp(first)))
        return torch.cat([first, self.norm2(words + self.dropout(self.mlp(words)))], dim=1)


class QFormer(nn.Module):
    """Learned queries (M, D) and a text in one stream; only the queries attend to the image.

        image and text        qformer(ids, lengths, memory=tokens)        [queries, text]
          apart               qformer(…, visible="apart")                 as each alone
          to be written       qformer(…, visible="causal")
        image                 qformer(memory=tokens)                      [queries]
        vectors and text      qformer(ids, lengths, queries=vectors)      [vectors, text]
        vectors in a text     qformer(ids, lengths, inserted=vectors)     [first token, vectors, other tokens]
        text                  qformer(ids, lengths)

    Without an image, all tokens pass through the words' feed-forward layers, also vectors in the
    place of queries (as in SPRC's code; stock BLIP-2 would use the queries' layers). Queries have
    no positions; those of a text begin at 0 and count inserted vectors. Source: Li et al. 2023
    (BLIP-2), which initialises from BERT-base; here the initialisation is random, as for our other
    transformers.

    >>> qformer = QFormer(QFormerConfig(vocab_size=100, memory_width=48, width=32, depth=2, queries=4))
    >>> ids, lengths = torch.ones(3, 6, dtype=torch.long), torch.tensor([6, 3, 4])
    >>> found = qformer(ids, lengths, memory=torch.zeros(3, 9, 48))
    >>> found.tokens.shape, found.prefix, found.pooled.shape
    (torch.Size([3, 10, 32]), 4, torch.Size([3, 32]))
    """

    def __init__(self, config: QFormerConfig):
        super().__init__()
        self.config = config
        D = config.width
        self.queries = nn.Parameter(torch.randn(config.queries, D) * STD)
        self.table = nn.Embedding(config.vocab_size, D)
        self.positions = nn.Parameter(torch.randn(config.positions, D) * STD)
        self.norm = nn.LayerNorm(D, 1e-12)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(QueryBlock(config, layer) for layer in range(config.depth))
        nn.init.normal_(self.table.weight, std=STD)
        init(self.layers, D, config.depth)
        for block in self.layers:
            block.query_mlp.load_state_dict(block.mlp.state_dict())  # type: ignore[union-attr]

    def forward(
        self,
        ids: Tensor | None = None,
        lengths: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        queries: Tensor | None = None,
        inserted: Tensor | None = None,
        visible: Visible = "all",
    ) -> Encoded:
        """Encode ids (B, L) with lengths (B,), an image's tokens (B, T, ·), or both.

        `queries` (M, D) or (B, M, D) replace the learned ones; `inserted` (K, D) are put after the
        text's first token. In the result, `prefix` counts the queries, which come first; `pooled`
        is the text's first token (B, D), or the queries (B, M, D) without a text. Raises InputError
        for neither text nor image, and for a text that exceeds the positions.
        """
        if queries is None and memory is not None:
            queries = self.queries
        parts = []
        masks = []
        count = 0 if queries is None else queries.shape[-2]
        if ids is not None and lengths is not None:
            words = self._words(ids, inserted)
            shift = 0 if inserted is None else len(inserted)
            parts = [words]
            place = torch.arange(words.shape[1], device=ids.device)
            masks = [place < (lengths.clamp(min=1) + shift)[:, None]]
        elif queries is None or memory is None:
            raise InputError("a Q-Former takes a text, an image or both; give one of them")
        if queries is not None:
            B = len(parts[0]) if memory is None else len(memory)
            parts = [queries.expand(B, -1, -1), *parts]
            masks = [torch.ones(B, count, dtype=torch.bool, device=queries.device), *masks]
        mask = torch.cat(masks, 1)
        x = self.dropout(self.norm(torch.cat(parts, 1)))
        seen = visibility(mask, count, visible) if ids is not None else None
        for block in self.layers:
            x = block(x, queries=count, mask=seen, memory=memory)
        return Encoded(x, x[:, count] if ids is not None else x, prefix=count, mask=mask)

    def word_parts(self) -> list[nn.Module | nn.Parameter]:
        """The parts that words alone pass through, where there are queries and an image."""
        blocks = [part for part in self.layers if isinstance(part, QueryBlock)]
        return [self.table, self.positions, *(each for b in blocks for each in (b.mlp, b.norm2))]

    def _words(self, ids: Tensor, inserted: Tensor | None) -> Tensor:
        """Embed ids (B, L) as (B, L + K, D), positions added."""
        words = self.table(ids)
        if inserted is not None:
            words = Insert(inserted, layer=0, at=0, placement="after")(0, words)
        if words.shape[1] > len(self.positions):
            raise InputError(
                f"a text of {words.shape[1]} tokens, with what is inserted, exceeds the Q-Former's "
                f"{len(self.positions)} places; cut it"
            )
        return words + self.positions[: words.shape[1]]


def visibility(real: Tensor, queries: int, visible: Visible) -> Tensor:
    """Which of N tokens each may attend to, (B, N, N), or the same for all, (B, N): of the `real` ones
    (B, N), the first of which are `queries`.

    >>> visibility(torch.tensor([[True, True, True, False]]), 1, "causal")[0].int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    """
    if visible == "all":
        return real
    place = torch.arange(real.shape[1], device=real.device)
    query = place < queries
    seen = query[:, None] == query
    if visible == "causal":
        earlier = place <= place[:, None]
        seen = query | (seen & earlier)
    return seen & real[:, None]
