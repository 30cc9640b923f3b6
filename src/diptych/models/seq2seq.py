"""Encoder-decoders: the encoder reads vectors and words, the decoder generates words.

    memory = encoder([v_1 … v_P, table(q_1) … table(q_L)]),      p(y_t | y_<t, memory) by the decoder

Generation is as in `CausalLM`, with the memory. `seq2seq` builds one from a spec:
`text:width=128:depth=2` is ours, from scratch; `t5:width=768:depth=12:heads=12` has the
architecture of T5 (Raffel et al., 2020), also from scratch; `t5:FOLDER` is a trained T5 with its
own tokenizer, in transformers' layout.

Dimensions: B samples, P vectors read instead of words, L words read, M = P + L, D width, V
vocabulary.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.models import t5
from diptych.models.causal_lm import CausalLM, prefixed
from diptych.spec import parse
from diptych.towers.build import text_tower
from diptych.towers.nn.transformer import Transformer
from diptych.towers.text.text import TextTower

PLACES = 16
"""The most vectors that can be read beside the words, where no number is given."""


class Seq2Seq(CausalLM):
    """An encoder and a decoder of the same shape with a shared embedding table.

    >>> from diptych.data.tokenizers import build
    >>> lm = seq2seq("text:width=32:depth=1", build("bpe:vocab_size=260:context=8"))
    >>> memory, mask = lm.read(torch.zeros(2, 4, 32), torch.ones(2, 3, dtype=torch.long), torch.tensor([3, 1]))
    >>> memory.shape, mask.sum(1).tolist()
    (torch.Size([2, 7, 32]), [7, 5])
    """

    def __init__(self, tower: TextTower, tokenizer: Tokenizer, places: int = PLACES):
        super().__init__(tower)
        config = tower.config
        D = tower.width
        self.tokenizer = tokenizer
        self.width = D
        self.reader = Transformer(
            D,
            config.depth,
            config.heads,
            mlp_ratio=config.mlp_ratio,
            activation=config.activation,
            eps=config.eps,
            layer_scale=config.layer_scale,
            dropout=config.dropout,
        )
        self.read_norm = nn.LayerNorm(D, config.eps)
        self.places = nn.Parameter(torch.randn(places + config.context, D) * 0.01)

    def read(
        self, vectors: Tensor, ids: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode vectors (B, P, D), followed by ids (B, L) of lengths (B,): memory (B, M, D) and
        its mask (B, M)."""
        x, mask = prefixed(vectors, self.table, ids, lengths)
        return self.encode(x, mask), mask

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        """Encode embeddings (B, M, D), of which those of the mask (B, M) are real: memory (B, M, D)."""
        x = self.reader(x + self.places[: x.shape[1]], mask=mask)
        return self.read_norm(x)

    def extra_state(self) -> dict[str, Any]:
        """Plain values from which a model of a folder is rebuilt: none here."""
        return {}


def seq2seq(spec: str, tokenizer: Tokenizer | None, *, places: int = PLACES) -> Seq2Seq | t5.T5:
    """Build the encoder-decoder of a spec, for a tokenizer unless it has its own. Ours reads `places`
    vectors beside the words, a T5 any number.

    Raises InputError for an unknown option, a folder without a T5, and a tokenizer without start or
    end ids.
    """
    parsed = parse(spec)
    if parsed.name.startswith("t5:"):
        return t5.from_folder(parsed.name.removeprefix("t5:"), **parsed.options)
    if (
        tokenizer is None
        or not tokenizer.before
        or tokenizer.eot is None
        or tokenizer.padding == "max"
    ):
        raise InputError(
            "words cannot be written by this model's tokenizer, which does not mark where texts start and end; give "
            "a T5, which brings its own: t5:FOLDER"
        )
    if parsed.name == "t5":
        return t5.fresh(tokenizer, **parsed.options)
    options = replace(parsed, options={"cross": 0, **parsed.options})
    tower = text_tower(
        str(options),
        vocab_size=tokenizer.vocab_size,
        context=tokenizer.context,
        pad=tokenizer.pad,
        eot=tokenizer.eot,
        padding=tokenizer.padding,
    )
    return Seq2Seq(tower, tokenizer, places)
