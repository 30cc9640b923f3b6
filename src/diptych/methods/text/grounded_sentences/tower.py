"""The text tower: characters, a bidirectional GRU, and attention that weighs each feature by itself.

    h_t = [GRU→(e_1 … e_t), GRU←(e_T … e_t)]
    A = softmax over t of W2 tanh(W1 h_t + b1) + b2,      pooled = Σ_t A_t * h_t

Every one of the 2H features has its own distribution over the T positions. The results of several
heads are side by side.

Dimensions: N texts, T tokens, H hidden of a direction, K heads, A width of the attention, D = 2HK.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.spec import Count, Width
from diptych.towers.build import text
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.tower import Tower


@dataclass(frozen=True, kw_only=True)
class GRUConfig:
    """Options of `grounded_sentences.gru`: widths of the embedded characters, of each direction of
    the GRU and of the attention, and the number of heads. With `masked=False` the attention is
    over the padding as well, as it was published: a text's vector then depends on the longest text
    of its batch."""

    vocab_size: int
    context: int
    pad: int | None = None
    eot: int | None = None
    padding: Literal["longest", "max"] = "longest"
    embedding: Count = 20
    hidden: Width = 1024
    attention: Count = 128
    heads: Count = 1
    masked: bool = True


class VectorialAttention(nn.Module):
    """The weights of one head: a distribution over positions for each of C features.

    With W2 and b2 of zeros, all positions have the same weight.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)
        nn.init.orthogonal_(self.first.weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features (N, T, C) -> weights (N, T, C), which sum to 1 over the positions that `mask`
        (N, T) allows."""
        scores = self.second(torch.tanh(self.first(x)))
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], -torch.inf)
        return scores.softmax(1)


@text("grounded_sentences.gru")
class GRUTower(Tower):
    """Encode ids (N, T) with lengths (N,). Tokens are the features h_t, once for each head, so that
    the pooled vector is their weighted sum.

    >>> tower = GRUTower(GRUConfig(vocab_size=102, context=64, hidden=8, heads=2))
    >>> ids, lengths = torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([3, 1])
    >>> tower(ids, lengths).pooled.shape
    torch.Size([2, 32])
    """

    Config = GRUConfig

    def __init__(self, config: GRUConfig):
        super().__init__(config)
        features = 2 * config.hidden
        self.width = config.heads * features
        self.table = nn.Embedding(config.vocab_size, config.embedding, padding_idx=config.pad)
        # one a direction, since packed sequences take twice the time on a CPU
        self.forwards = nn.GRU(config.embedding, config.hidden, batch_first=True)
        self.backwards = nn.GRU(config.embedding, config.hidden, batch_first=True)
        self.attention = nn.ModuleList(
            VectorialAttention(features, config.attention) for _ in range(config.heads)
        )

    @property
    def context(self) -> int:
        """The most tokens that a text may have."""
        return self.config.context

    @property
    def mixes_samples(self) -> bool:
        """Whether a text's vector depends on the others of its batch, by the padding."""
        return not self.config.masked

    def embed(self, ids: Tensor | None = None, embeddings: Tensor | None = None) -> Tensor:
        """Embed ids (N, T), or return embeddings (N, T, width of the table)."""
        if (ids is None) == (embeddings is None):
            raise InputError("a text tower takes either ids or embeddings")
        if embeddings is not None:
            return embeddings
        assert ids is not None
        if ids.shape[1] > self.context:
            raise InputError(
                f"a text of {ids.shape[1]} tokens exceeds the tower's context {self.context}; cut it"
            )
        return self.table(ids)

    def mask(self, lengths: Tensor, T: int) -> Tensor:
        """The key mask (N, T), True at real tokens; an empty text has one, of padding."""
        return torch.arange(T, device=lengths.device) < lengths.clamp(min=1)[:, None]

    def blocks(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Embedded characters (N, T, ·) -> features (N, T, 2H) of both directions, 0 at pads."""
        if tokens.shape[1] == 0:  # a batch of empty texts
            tokens = tokens.new_zeros(len(tokens), 1, tokens.shape[2])
        turned = _turned(lengths.clamp(min=1), tokens.shape[1])
        ahead = self.forwards(tokens)[0]
        back = self.backwards(_taken(tokens, turned))[0]
        both = torch.cat([ahead, _taken(back, turned)], -1)
        return both.masked_fill(~self.mask(lengths, tokens.shape[1])[..., None], 0)

    def weights(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (N, T, 2H) -> weights (N, K, T, 2H) of the heads."""
        mask = self.mask(lengths, features.shape[1]) if self.config.masked else None
        return torch.stack([head(features, mask) for head in self.attention], 1)

    def pool(self, features: Tensor, weights: Tensor) -> Tensor:
        """Features (N, T, 2H) and weights (N, K, T, 2H) -> vectors (N, D)."""
        return (weights * features[:, None]).sum(2).flatten(1)

    def finish(self, features: Tensor, lengths: Tensor) -> Encoded:
        """Pool the features."""
        pooled = self.pool(features, self.weights(features, lengths))
        mask = self.mask(lengths, features.shape[1])
        return Encoded(features.repeat(1, 1, self.config.heads), pooled, mask=mask)

    def forward(
        self,
        ids: Tensor | None,
        lengths: Tensor,
        *,
        edit: Edit | None = None,
        embeddings: Tensor | None = None,
        **options: Any,
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`. Raises InputError for an `edit` of layers, a `memory`
        and another causality, which a recurrent network has none of."""
        if edit is not None or any(value is not None for value in options.values()):
            raise InputError(
                "a recurrent text tower has no layers to edit, no memory and no causality; choose text tower text"
            )
        return self.finish(self.blocks(self.embed(ids, embeddings), lengths), lengths)


def _turned(lengths: Tensor, T: int) -> Tensor:
    """The positions (N, T) of texts read from their ends; pads stay where they are.

    >>> _turned(torch.tensor([3, 2]), 3)
    tensor([[2, 1, 0],
            [1, 0, 2]])
    """
    places = torch.arange(T, device=lengths.device).expand(len(lengths), T)
    return torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """The vectors (N, T, C) at some positions (N, T)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
