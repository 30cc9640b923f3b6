"""Fusion of images and texts: the Q-Former, in which learned queries read an image beside a text.

Dimensions: B samples, M queries, L text tokens, K inserted vectors, N tokens in all, T image
tokens, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.towers.encoded import Encoded
from diptych.towers.nn.transformer import Block, FeedForward, Insert, init

STD = 0.02  # of queries, words and places, as in BERT


@dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    """Options of a Q-Former; those of BLIP-2's are the defaults, a BERT-base."""

    vocab_size: int
    memory_width: int  # of the image's tokens
    width: int = 768
    depth: int = 12
    heads: int | None = None  # width / 64
    queries: int = 32
    every: int = 2  # layers 0, every, 2 every, … read the image
    positions: int = 512  # places of a text with what is inserted into it
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
    """A block of BERT, norms behind the sums, whose first tokens may be queries.

    With a memory (B, T, ·) the first `queries` tokens read it, where the block has cross-attention,
    and pass through a feed-forward layer of their own, which begins as a copy of the words'.
    Without one, all tokens are treated as words.
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

    def forward(  # type: ignore[override]  # of a block whose norms stand before the sums
        self,
        x: Tensor,
        *,
        queries: int = 0,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        x = self.norm1(x + self.dropout(self.attn(x, mask=mask)))
        if memory is None:
            return self.norm2(x + self.dropout(self.mlp(x)))
        first = x[:, :queries]
        words = x[:, queries:]
        if self.cross is not None and self.norm_cross is not None:
            first = self.norm_cross(first + self.dropout(self.cross(first, memory)))
        first = self.query_norm(first + self.dropout(self.query_mlp(first)))
        return torch.cat([first, self.norm2(words + self.dropout(self.mlp(words)))], dim=1)


class QFormer(nn.Module):
    """Learned queries (M, D) and a text in one bidirectional stream; the queries alone read the
    image's tokens.

        image and text        qformer(ids, lengths, memory=tokens)        [queries, text]
        image                 qformer(memory=tokens)                      [queries]
        vectors and text        qformer(ids, lengths, queries=vectors)      [vectors, text]
        vectors in a text       qformer(ids, lengths, inserted=vectors)     [first token, vectors, other tokens]
        text                    qformer(ids, lengths)

    Without an image, everything passes through the words' feed-forward layers, vectors in the place
    of queries too (as in SPRC's code; stock BLIP-2 would take the queries' own). Queries have no
    places; those of a text begin at 0, and run over what is inserted. Source: Li et al. 2023
    (BLIP-2), where it begins as BERT-base; here it begins at random, as our other transformers.

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
    ) -> Encoded:
        """Ids (B, L) with lengths (B,), an image's tokens (B, T, ·), or both -> Encoded.

        `queries` (M, D), or (B, M, D), stand in place of the learned ones, `inserted` (K, D) behind
        the text's first token. `prefix` counts the queries, which come first; `pooled` is the
        text's first token (B, D), or without a text the queries (B, M, D). Raises InputError for
        neither text nor image, and a text beyond the places.
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
        for block in self.layers:
            x = block(x, queries=count, mask=mask if ids is not None else None, memory=memory)
        return Encoded(x, x[:, count] if ids is not None else x, prefix=count, mask=mask)

    def _words(self, ids: Tensor, inserted: Tensor | None) -> Tensor:
        """Ids (B, L) -> (B, L + K, D), places added."""
        words = self.table(ids)
        if inserted is not None:
            words = Insert(inserted, layer=0, at=0, placement="after")(0, words)
        if words.shape[1] > len(self.positions):
            raise InputError(
                f"a text of {words.shape[1]} tokens, with what is inserted, exceeds the Q-Former's "
                f"{len(self.positions)} places; cut it"
            )
        return words + self.positions[: words.shape[1]]
