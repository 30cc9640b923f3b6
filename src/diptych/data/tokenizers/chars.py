"""Characters as tokens: nothing is lower-cased, and no words are known.

id = 1 + position in the alphabet,   0 = padding,   1 + size of the alphabet = unknown
"""

import string
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from diptych.data.sample import whole
from diptych.data.tokenizers.base import Tokenizer
from diptych.errors import InputError, unknown

_FULL_STOP = " ."


class Chars(Tokenizer):
    """A tokenizer of single characters.

    `alphabet` are the characters that have an id, by default Python's `string.printable`; any other
    is the special token `unk`. With `lower`, texts are lower-cased first. With `full_stop`, a text
    that does not end with a full stop gets " ." at its end, which a text longer than the context
    loses.

    Raises InputError for an alphabet that is empty or has a character twice, and for a context
    below 1.

    >>> tokenizer = Chars()
    >>> tokenizer.ids("a0é"), tokenizer.vocab_size
    ([11, 1, 101], 102)
    """

    kind = "chars"
    pad = 0

    def __init__(
        self,
        alphabet: str = string.printable,
        context: int = 1024,
        padding: Literal["longest", "max"] = "longest",
        lower: bool = False,
        full_stop: bool = False,
        special: str = "",
    ):
        if not alphabet or len(set(alphabet)) < len(alphabet):
            raise InputError("an alphabet has each of its characters once, and one at least")
        _check(context, padding)
        self.alphabet = alphabet
        self.context = context
        self.padding = padding
        self.lower = lower
        self.full_stop = full_stop
        self._id = {character: number for number, character in enumerate(alphabet, 1)}
        unk = 1 + len(alphabet)
        self.vocab_size = unk + 1
        self._add(special, {"unk": unk})

    def ids(self, text: str) -> list[int]:
        text = whole(text)
        if self.lower:
            text = text.lower()
        if self.full_stop and not text.rstrip().endswith("."):
            text = text.rstrip() + _FULL_STOP
        unk = self.special["unk"]
        return [self._id.get(character, unk) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """The characters of some ids; the unknown one is the replacement character."""
        unk = self.special["unk"]
        signs = (
            "\ufffd" if number == unk else self.alphabet[number - 1]
            for number in ids
            if 0 < number <= unk
        )
        return "".join(signs)

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        space = [self.decode([number]).isspace() for number in ids]
        return [not now and (at == 0 or space[at - 1]) for at, now in enumerate(space)]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "alphabet": self.alphabet,
            "context": self.context,
            "padding": self.padding,
            "lower": self.lower,
            "full_stop": self.full_stop,
            **self._added(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Chars":
        return cls(**{name: value for name, value in values.items() if name != "kind"})


def train_chars(
    texts: Iterable[str],
    alphabet: Literal["printable", "texts"] = "printable",
    **options: Any,
) -> Chars:
    """The tokenizer of `string.printable`, or with `alphabet="texts"` of these and all other
    characters of the texts, in the order of their code points.

    >>> train_chars(["naïve"], alphabet="texts").ids("ï")
    [101]
    """
    if alphabet not in ("printable", "texts"):
        raise unknown("alphabet", str(alphabet), ("printable", "texts"))
    found: set[str] = set()
    if alphabet == "texts":
        for text in texts:
            found.update(whole(text))
    others = "".join(sorted(found - set(string.printable)))
    return Chars(string.printable + others, **options)


def _check(context: int, padding: str) -> None:
    if context < 1:
        raise InputError(f"context is {context}; it must be at least 1")
    if padding not in ("longest", "max"):
        raise unknown("padding", str(padding), ("longest", "max"))
