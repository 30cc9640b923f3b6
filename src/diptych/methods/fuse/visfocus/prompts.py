"""The frozen encoder of prompts, whose states the image tower reads. It is not the language model that
writes, and may have another tokenizer.

Dimensions: B prompts, L ids, Q width of the states.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.methods.teacher import LentLM
from diptych.models.pretrained.hf_lm import HF_LM
from diptych.models.seq2seq import seq2seq
from diptych.spec import parse
from diptych.towers.nn.parts import freeze

NEW = ("text", "t5")
"""The names of specs of a new encoder, which is stored with the run."""
BLANK = "_"
"""What stands for a sentinel that the encoder's tokenizer does not have."""


class PromptEncoder(nn.Module):
    """The states of prompts by a frozen model: the encoder of a T5 (`t5:FOLDER`), or a causal language
    model (`tiny-lm`, a RUN, `hf-lm:FOLDER`), loaded when it is first used.

    `text:…` and `t5:width=…` are shapes of a new encoder, which has learnt nothing and stays so; it
    reads the tokenizer `words`. Raises InputError when first used if there is no such model.
    """

    def __init__(self, spec: str, words: Tokenizer | None):
        super().__init__()
        self.lent: LentLM | None = None
        self.own: nn.Module | None = None
        self.expected: str | None = None  # the fingerprint of the tokenizer of a saved run
        parsed = parse(spec)
        if parsed.name in NEW:
            self.own = seq2seq(spec, words).eval()
            freeze(self.own)
            return
        kind, _, folder = parsed.name.partition(":")
        if kind == "t5" and parsed.options:
            raise InputError(
                f"the prompt encoder {parsed.name} takes no options; leave out {', '.join(parsed.options)}"
            )
        self.lent = LentLM(f"{HF_LM}:{folder}" if kind == "t5" else spec, encoders=True)

    @property
    def lm(self) -> Any:
        """The model: an encoder-decoder, of which the encoder is used, or a causal language model."""
        return self.own if self.lent is None else self.lent.model.lm

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of prompts. Raises InputError for another one than a saved run had."""
        words = self.lm.tokenizer if self.lent is None else self.lent.model.tokenizer
        if self.expected not in (None, words.fingerprint):
            assert self.lent is not None, "a run's own encoder reads its tokenizer"
            raise InputError(
                f"this run was trained with another tokenizer than that of {self.lent.name}; give the prompt encoder "
                "as it was"
            )
        return words

    @property
    def fingerprint(self) -> str:
        """That of the tokenizer."""
        return self.expected or self.tokenizer.fingerprint

    @property
    def width(self) -> int:
        """The width Q of the states."""
        return self.lm.table.embedding_dim

    @torch.no_grad()
    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, L) with their start and end, and lengths (B,) -> states (B, ·, Q), without a gradient,
        and their mask."""
        if hasattr(self.lm, "encode"):  # the start id of an encoder-decoder is its decoder's
            ids = ids[:, len(self.tokenizer.before) :]
            lengths = lengths - len(self.tokenizer.before)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        if hasattr(self.lm, "encode"):
            return self.lm.encode(self.lm.table(ids), mask), mask
        return self.lm(ids, mask), mask

    def train(self, mode: bool = True) -> "PromptEncoder":
        super().train(mode)
        if self.own is not None:
            self.own.eval()
        return self


def alike(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers give the same ids, up to their contexts.

    >>> from diptych.data.tokenizers import build
    >>> short, long = (build(f"bpe:vocab_size=260:context={most}") for most in (8, 16))
    >>> short == long, alike(short, long)
    (False, True)
    """
    values = [{**each.to_dict(), "context": None} for each in (one, other)]
    return values[0] == values[1]


def translated(ids: Sequence[int], one: Tokenizer, other: Tokenizer) -> list[int]:
    """The ids of a prompt in another tokenizer, with its start and end; not cut.

    A sentinel stays one if the other tokenizer has it, else it becomes the blank "_".

    >>> from diptych.data.tokenizers import build
    >>> one = build("bpe:vocab_size=260:context=16:special=extra_id_0")
    >>> other = build("bpe:vocab_size=260:context=16")
    >>> row = [*one.before, *one.ids("ab"), one.special_id("extra_id_0"), *one.ids("c"), *one.after]
    >>> other.decode(translated(row, one, other))
    'ab _ c'
    """
    own = ids[len(one.before) : len(ids) - len(one.after)]
    names = {number: name for name, number in one.special.items() if name.startswith("extra_id_")}
    found: list[int] = []
    text: list[int] = []
    for number in [*own, None]:
        if number is not None and number not in names:
            text.append(number)
            continue
        found += other.ids(one.decode(text)) if text else []
        text = []
        if number is not None:
            sentinel = other.special.get(names[number])
            found += other.ids(BLANK) if sentinel is None else [sentinel]
    return [*other.before, *found, *other.after]
