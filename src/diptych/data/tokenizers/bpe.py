"""Byte-pair encoding trained on given texts: lower case and byte-level, so that no text is out of
vocabulary.

Ids 0, 1, 2 are padding, start and end; then the 256 bytes; then one id for each merge, in the order
of training.
"""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from diptych.data.sample import whole
from diptych.data.tokenizers.base import Tokenizer, word_starts
from diptych.errors import InputError, unknown

# Loader workers are forked after texts were encoded. The library's threads do not survive a fork,
# about which it would warn.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SPECIAL = ("<pad>", "<start>", "<end>")
ALPHABET = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))


class Bpe(Tokenizer):
    """A byte-pair encoding, given by its merges ("left right", in order)."""

    kind = "bpe"
    pad = 0
    before = (1,)
    after = (2,)

    def __init__(
        self,
        merges: Iterable[str],
        context: int = 64,
        padding: Literal["longest", "max"] = "longest",
        special: str = "",
    ):
        self.merges = tuple(merges)
        self.context = context
        self.padding = padding
        vocab = {token: number for number, token in enumerate(SPECIAL + ALPHABET)}
        pairs = []
        for merge in self.merges:
            left, _, right = merge.partition(" ")
            if left not in vocab or right not in vocab:
                raise InputError(
                    f"the tokenizer's merge {merge!r} joins parts that do not exist; its file is damaged"
                )
            vocab.setdefault(left + right, len(vocab))
            pairs.append((left, right))
        self.vocab_size = len(vocab)
        self._rust = _pipeline(models.BPE(vocab=vocab, merges=pairs))
        self._add(special)

    def ids(self, text: str) -> list[int]:
        return self._rust.encode(whole(text), add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        tokens = [self._rust.id_to_token(number) or "" for number in ids if number >= len(SPECIAL)]
        return (
            decoders.ByteLevel().decode(tokens).removeprefix(" ")
        )  # the space put before each text

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        return word_starts([self._rust.id_to_token(number) or "" for number in ids])

    @property
    def pipeline(self) -> str:
        """The pipeline as the content of a tokenizer.json, without special ids around a text."""
        return self._rust.to_str()

    def to_dict(self) -> dict[str, Any]:
        merges = "\n".join(self.merges)
        return {
            "kind": self.kind,
            "context": self.context,
            "padding": self.padding,
            "merges": merges,
            **self._added(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Bpe":
        merges = values["merges"].split("\n") if values["merges"] else ()
        return cls(merges, values["context"], values["padding"], values.get("special", ""))


def train_bpe(
    texts: Iterable[str],
    vocab_size: int = 4096,
    context: int = 64,
    padding: Literal["longest", "max"] = "longest",
    special: str = "",
) -> Bpe:
    """Learn merges from texts until the vocabulary has `vocab_size` ids or no pair occurs twice.

    The ids of `special` come behind these, so the ids of texts do not depend on them.

    Training is deterministic.

    Raises InputError for a vocabulary too small for the bytes, or a context too short for one id.

    >>> tokenizer = train_bpe(["a red cat", "a red dog", "a red hat"], vocab_size=270, context=8)
    >>> tokenizer.encode(["a red cat"])[0][:3]
    [1, 261, 262]
    """
    least = len(SPECIAL) + len(ALPHABET)
    if vocab_size < least:
        raise InputError(
            f"vocab_size is {vocab_size}; it must be at least {least}, the bytes and special ids"
        )
    if padding not in ("longest", "max"):
        raise unknown("padding", str(padding), ("longest", "max"))
    if context < 3:
        raise InputError(
            f"context is {context}; it must be at least 3: start, end and one id between"
        )
    rust = _pipeline(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIAL),
        initial_alphabet=list(ALPHABET),
    )
    rust.train_from_iterator((whole(text) for text in texts), trainer)
    state = json.loads(rust.to_str())["model"]
    tokenizer = Bpe((" ".join(pair) for pair in state["merges"]), context, padding, special)
    assert tokenizer.vocab_size == len(state["vocab"]) + len(tokenizer.added), (
        "the vocabulary does not follow from its merges"
    )
    return tokenizer


def _pipeline(model: models.BPE) -> RustTokenizer:
    rust = RustTokenizer(model)
    rust.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]
    )
    # A leading space, so that a word has the same ids at the start of a text and inside it.
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return rust
