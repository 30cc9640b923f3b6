"""CLIP's tokenizer, with the vocabulary of the installed open_clip_torch.

Text is repaired (ftfy), unescaped (HTML), cleaned and split into words by the pattern of Radford et
al. (2021); the Rust library merges the words' bytes. The ids are equal to open_clip's.
"""

import gzip
import hashlib
import html
import importlib.util
import string
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tokenizers import models, pre_tokenizers

from diptych.data.tokenizers.base import Tokenizer, word_starts
from diptych.errors import InputError, unknown

START = "<start_of_text>"
END = "<end_of_text>"
PATTERN = START + "|" + END + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MERGES = 49152 - 256 - 2  # lines of the file that belong to CLIP's vocabulary
SUFFIX = "</w>"  # marks the last byte of a word


class Clip(Tokenizer):
    """CLIP's byte-pair encoding. `clean` is "lower", "whitespace" (keeps capitals) or
    "canonicalize" (no punctuation).

    Needs the extra `openclip` (its vocabulary file, ftfy and regex).
    """

    kind = "clip"
    pad = 0

    def __init__(
        self,
        context: int = 77,
        clean: str = "lower",
        padding: Literal["longest", "max"] = "longest",
        special: str = "",
    ):
        if clean not in CLEAN:
            raise unknown("way to clean text", clean, CLEAN)
        if context < 3:
            raise InputError(
                f"context is {context}; it must be at least 3: start, end and one id between"
            )
        self.context = context
        self.clean = clean
        self.padding = padding
        vocab, self._bpe, self.checksum = _vocabulary()
        self.vocab_size = len(vocab)
        self._marks = {START: vocab[START], END: vocab[END]}
        self.before = (vocab[START],)
        self.after = (vocab[END],)
        self._add(special)

    def ids(self, text: str) -> list[int]:
        ids = []
        for word in _words()(CLEAN[self.clean](text)):
            if word in self._marks:
                ids.append(self._marks[word])
            else:
                mapped = "".join(map(_BYTES.__getitem__, word.encode("utf-8")))
                ids.extend(token.id for token in self._bpe.tokenize(mapped))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        special = {*self.before, *self.after}
        signs = "".join(
            self._bpe.id_to_token(number) or "" for number in ids if number not in special
        )
        data = (bytes(map(_SIGNS.__getitem__, word)) for word in signs.split(SUFFIX))
        return " ".join(word.decode("utf-8", "replace") for word in data).strip()

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        return word_starts([self._bpe.id_to_token(number) or "" for number in ids])

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "context": self.context,
            "clean": self.clean,
            "padding": self.padding,
            **self._added(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Clip":
        special = values.get("special", "")
        return cls(values["context"], values["clean"], values["padding"], special)

    def _decides(self) -> dict[str, Any]:
        return {**self.to_dict(), "vocabulary": self.checksum, "pattern": PATTERN}

    def __reduce__(self):  # a worker process reads the vocabulary file again
        return type(self), (self.context, self.clean, self.padding, "+".join(self.added))


def mend(text: str) -> str:
    """Repair broken encodings and unescape HTML entities, the first step of open_clip's tokenizer.

    >>> mend("schÃ¶n &amp;amp; gut")
    'schön & gut'
    """
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _spaces(text: str) -> str:
    return " ".join(text.split())


def canonicalize(text: str) -> str:
    """Lower case, without ASCII punctuation, with single spaces, as in SigLIP's training."""
    return _spaces(text.replace("_", " ").translate(_PUNCTUATION).lower())


_PUNCTUATION = str.maketrans("", "", string.punctuation)
CLEAN = {
    "lower": lambda text: _spaces(mend(text)).lower(),
    "whitespace": lambda text: _spaces(mend(text)),
    "canonicalize": lambda text: canonicalize(mend(text)),
}


def _byte_signs() -> list[str]:
    """The printable character that represents each byte: itself if printable, else the next one
    from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(256))
    return [chr(byte) if byte in printable else chr(256 + next(shifted)) for byte in range(256)]


_BYTES = _byte_signs()
_SIGNS = {sign: byte for byte, sign in enumerate(_BYTES)}
assert sorted(_BYTES) == sorted(pre_tokenizers.ByteLevel.alphabet())


@cache
def _words():
    import regex

    return regex.compile(PATTERN, regex.IGNORECASE).findall


@cache
def _vocabulary() -> tuple[dict[str, int], models.BPE, str]:
    """Ids by token, the BPE model and the file's SHA-256. open_clip is not imported, which would
    take seconds."""
    found = importlib.util.find_spec("open_clip")
    missing = [name for name in ("ftfy", "regex") if importlib.util.find_spec(name) is None]
    if found is None or not found.submodule_search_locations or missing:
        raise InputError(
            "the tokenizer 'clip' needs open_clip_torch, ftfy and regex; pip install 'diptych[openclip]'"
        )
    path = Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); install open_clip_torch again"
        ) from None
    lines = content.decode("utf-8").split("\n")[1 : MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    # Order of the vocabulary: printable bytes, shifted bytes, both again with the suffix, merges,
    # special tokens.
    signs = sorted(_BYTES)
    tokens = [*signs, *(sign + SUFFIX for sign in signs), *(a + b for a, b in merges), START, END]
    vocab = {token: number for number, token in enumerate(tokens)}
    return (
        vocab,
        models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=SUFFIX),
        hashlib.sha256(content).hexdigest(),
    )
