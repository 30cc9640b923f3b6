"""Masked words: the head that predicts them, and the loss.

Dimensions: N texts, L tokens, D width, W words of the vocabulary, B samples, C texts of each.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.batch import Tokens
from diptych.dtypes import at_least_float32


class WordHead(nn.Module):
    """BERT's prediction of masked words: logits = E · LN(gelu(A h + a)) + b.

    E (W, D) are the word embeddings of the text tower, given at each call so that both share them.
    `hidden` is the width of the hidden states where it is not theirs.

    >>> WordHead(8, 100)(torch.zeros(3, 8), torch.zeros(100, 8)).shape
    torch.Size([3, 100])
    """

    def __init__(self, width: int, words: int, *, hidden: int | None = None):
        super().__init__()
        self.dense = nn.Linear(hidden or width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Hidden states (…, D) -> logits (…, W)."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), table, self.bias)


def masked_losses(head: WordHead, text: nn.Module, tokens: Tokens) -> dict[str, Tensor]:
    """Return for each sample (B,) of masked texts (B, C, L) the sum of the log-losses of their
    masked words, how many there are, and how many the head predicts right.

    The mean over a batch is the quotient of the totals, so that each word counts alike.
    """
    assert tokens.marks is not None, "a view that masks marks what was there"
    ids, lengths = tokens.flat
    hidden = text(ids, lengths).tokens
    chosen = tokens.marks.flatten(0, 1) >= 0
    return word_losses(head(hidden[chosen], text.table.weight), tokens.marks)  # type: ignore[union-attr]


def word_losses(logits: Tensor, marks: Tensor) -> dict[str, Tensor]:
    """`masked_losses` of logits (M, W), of the M places of marks (B, C, L) that are not -1, in
    order."""
    samples, captions, _ = marks.shape
    marks = marks.flatten(0, 1)
    chosen = marks >= 0
    losses = F.cross_entropy(at_least_float32(logits), marks[chosen], reduction="none")
    right = logits.argmax(-1) == marks[chosen]
    owner = chosen.nonzero()[:, 0] // captions
    empty = losses.new_zeros(samples)
    return {
        "word_loss": empty.index_add(0, owner, losses),
        "words": empty.index_add(0, owner, torch.ones_like(losses)),
        "words_right": empty.index_add(0, owner, right.to(losses.dtype)),
    }


def total(found: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Add up the numbers of several texts of the same samples."""
    return {name: torch.stack([each[name] for each in found]).sum(0) for name in found[0]}
