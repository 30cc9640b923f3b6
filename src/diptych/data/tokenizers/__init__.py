"""Tokenizers: `bpe`, `wordpiece` and `words` (trained here), `chars`, `clip` (open_clip's vocabulary), `hf` and
`sentencepiece` (from model folders).

A tokenizer is saved in a model's file as plain values (`to_dict`), with a fingerprint of all that
determines its ids.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diptych.data.tokenizers.base import Tokenizer, by_length, pad_batch
from diptych.data.tokenizers.bpe import Bpe, train_bpe
from diptych.data.tokenizers.chars import Chars, train_chars
from diptych.data.tokenizers.clip import Clip
from diptych.data.tokenizers.hf import HuggingFace, from_folder
from diptych.data.tokenizers.sentencepiece import SentencePiece
from diptych.data.tokenizers.wordpiece import train_wordpiece
from diptych.data.tokenizers.words import Words, train_words
from diptych.errors import InputError, brief, unknown
from diptych.files import read_json
from diptych.spec import parse

__all__ = ["Bpe", "Chars", "Clip", "HuggingFace", "SentencePiece", "Tokenizer", "Words", "build", "by_length",
           "from_dict", "from_folder", "pad_batch", "train_bpe", "train_chars", "train_wordpiece",
           "train_words"]  # fmt: skip

KINDS: dict[str, type[Any]] = {
    kind.kind: kind for kind in (Bpe, Chars, Clip, HuggingFace, SentencePiece, Words)
}


def build(spec: str, texts: Iterable[str] = ()) -> Tokenizer:
    """Build the tokenizer of a spec.

    The specs are `bpe[:vocab_size=…:context=…]`, `wordpiece[:…]` and `words[:…]`, trained on
    `texts`; `chars[:context=…:alphabet=printable|texts:lower=…:full_stop=…]`; `clip[:context=…]`;
    `hf:FOLDER[:context=…:padding=max]`; or `saved:FILE`, that of a run's model.json. Each but the
    last takes `special=mask+extra_id_0-extra_id_9`, special tokens that are added to its
    vocabulary.

    Raises InputError for an unknown name or option, and for a file without a tokenizer.

    >>> build("bpe:vocab_size=260", ["two cats", "two dogs"]).vocab_size
    260
    """
    parsed = parse(spec)
    name, _, place = parsed.name.partition(":")
    makers: dict[str, Any] = {
        "bpe": lambda **options: train_bpe(texts, **options),
        "wordpiece": lambda **options: train_wordpiece(texts, **options),
        "words": lambda **options: train_words(texts, **options),
        "chars": lambda **options: train_chars(texts, **options),
        "clip": Clip,
        "hf": lambda **options: from_folder(place, **options),
        "saved": lambda: _saved(Path(place)),
    }
    if name not in makers or bool(place) != (name in ("hf", "saved")):
        raise unknown(
            "tokenizer",
            parsed.name,
            ["bpe", "wordpiece", "words", "chars", "clip", "hf:FOLDER", "saved:FILE"],
        )
    try:
        return makers[name](**parsed.options)
    except TypeError as error:
        raise InputError(f"tokenizer {spec!r}: {str(error).split(' ', 1)[-1]}") from None


def _saved(path: Path) -> Tokenizer:
    """Read the result of `to_dict` from a JSON file, at the top level or under "tokenizer"."""
    try:
        values = read_json(path.expanduser(), "name a run's model.json")
        return from_dict(values.get("tokenizer", values) if isinstance(values, dict) else values)
    except (OSError, InputError) as error:
        raise InputError(
            f"{path} holds no saved tokenizer ({brief(error)}); name a run's model.json"
        ) from None


def from_dict(values: Any) -> Tokenizer:
    """The inverse of a tokenizer's `to_dict`. Raises InputError for other values."""
    if not isinstance(values, Mapping):
        raise InputError(
            f"a saved tokenizer is a mapping, and this is a {type(values).__name__}; copy its file again"
        )
    kind = str(values.get("kind"))
    if kind not in KINDS:
        raise unknown("kind of tokenizer", kind, KINDS)
    try:
        return KINDS[kind].from_dict(dict(values))
    except InputError:
        raise
    except Exception as error:  # the libraries raise many kinds
        message = f"the saved tokenizer is damaged ({type(error).__name__}: {brief(error)}); copy its file again"
        raise InputError(message) from error
