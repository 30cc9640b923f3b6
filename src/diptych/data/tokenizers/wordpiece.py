"""WordPiece vocabularies in the form of BERT, trained on given texts."""

import json
from collections.abc import Iterable
from typing import Literal

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from diptych.data.sample import whole
from diptych.data.tokenizers.hf import HuggingFace
from diptych.errors import InputError, unknown

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_INSIDE = "##"


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int = 4096,
    context: int = 64,
    padding: Literal["longest", "max"] = "longest",
    special: str = "",
) -> HuggingFace:
    """Learn pieces of lower-case words from texts until the vocabulary has `vocab_size` ids or no
    pair of pieces occurs twice.

    Words are split at spaces and punctuation; a piece inside a word is marked by ##. A word with a
    letter that no text has is [UNK]. [CLS] and [SEP] are put around a text. Training is
    deterministic. The ids of `special` come behind these; `mask` and `unk` are there already.

    Raises InputError for a vocabulary too small for the letters, or a context too short for one id.

    >>> tokenizer = train_wordpiece(["a red cat", "a red hat", "a reddish cat"], vocab_size=30)
    >>> tokenizer.decode(tokenizer.ids("A red cat")), tokenizer.starts_word(tokenizer.ids("redhat"))
    ('a red cat', [True, False, False])
    """
    if padding not in ("longest", "max"):
        raise unknown("padding", str(padding), ("longest", "max"))
    if context < 3:
        raise InputError(
            f"context is {context}; it must be at least 3: [CLS], [SEP] and one id between"
        )
    lines = [whole(text) for text in texts]
    letters = _letters(lines)
    # The trainer would number the letters inside words in the random order of a hash table, and
    # ties between pairs depend on the numbers.
    first = [*SPECIAL, *letters, *(_INSIDE + letter for letter in letters)]
    if vocab_size < len(first):
        raise InputError(
            f"vocab_size is {vocab_size}; it must be at least {len(first)}, the letters of the texts "
            "and special ids"
        )
    learnt = _pipeline(models.WordPiece(unk_token="[UNK]"))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=first,
        continuing_subword_prefix=_INSIDE,
    )
    learnt.train_from_iterator(lines, trainer)
    vocab = json.loads(learnt.to_str())["model"]["vocab"]
    rust = _pipeline(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    rust.add_special_tokens(list(SPECIAL))
    return HuggingFace(
        rust.to_str(),
        context=context,
        pad=vocab["[PAD]"],
        before=(vocab["[CLS]"],),
        after=(vocab["[SEP]"],),
        padding=padding,
        special=special,
    )


def _letters(lines: list[str]) -> list[str]:
    """The characters of the words of texts, in order."""
    rust = _pipeline(models.WordPiece(unk_token="[UNK]"))
    found: set[str] = set()
    for line in lines:
        found.update(rust.normalizer.normalize_str(line))  # type: ignore[union-attr]
    return sorted(letter for letter in found if not letter.isspace())


def _pipeline(model: models.WordPiece) -> RustTokenizer:
    rust = RustTokenizer(model)
    rust.normalizer = normalizers.BertNormalizer(lowercase=True)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece(prefix=_INSIDE)
    return rust
