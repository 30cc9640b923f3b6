"""Words as tokens, lower-cased, by a vocabulary of the training texts: what a model knows if it is
given words, for comparison with models of parts of words.

Id 0 is padding and 1 any word that is not in the vocabulary; then come the words, the most frequent
first.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from diptych.data.sample import whole
from diptych.data.tokenizers.base import Tokenizer
from diptych.errors import InputError, unknown

_WORD = re.compile(r"\w+|[^\w\s]")
_FIRST = 2


class Words(Tokenizer):
    """A tokenizer of whole words; a sign of punctuation is a word.

    >>> tokenizer = Words(["a", "cat"])
    >>> tokenizer.ids("A cat, a dog"), tokenizer.decode([2, 3, 1])
    ([2, 3, 1, 2, 1], 'a cat \ufffd')
    """

    kind = "words"
    pad = 0

    def __init__(
        self,
        words: Iterable[str],
        context: int = 64,
        padding: Literal["longest", "max"] = "longest",
        special: str = "",
    ):
        if context < 1:
            raise InputError(f"context is {context}; it must be at least 1")
        if padding not in ("longest", "max"):
            raise unknown("padding", str(padding), ("longest", "max"))
        self.words = tuple(words)
        self.context = context
        self.padding = padding
        self._id = {word: number for number, word in enumerate(self.words, _FIRST)}
        if len(self._id) < len(self.words):
            raise InputError("the tokenizer has a word twice; its file is damaged")
        self.vocab_size = _FIRST + len(self.words)
        self._add(special, {"unk": 1})

    def ids(self, text: str) -> list[int]:
        return [self._id.get(word, 1) for word in split(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of some ids, separated by spaces; the unknown one is the replacement
        character."""
        known = range(_FIRST, _FIRST + len(self.words))
        return " ".join(
            self.words[number - _FIRST] if number in known else "\ufffd"
            for number in ids
            if number == 1 or number in known
        )

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        return [True] * len(ids)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "words": " ".join(self.words),
            "context": self.context,
            "padding": self.padding,
            **self._added(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Words":
        return cls(
            values["words"].split(), values["context"], values["padding"], values.get("special", "")
        )


def split(text: str) -> list[str]:
    """The lower-case words and signs of a text.

    >>> split("It's 2 CATS.")
    ['it', "'", 's', '2', 'cats', '.']
    """
    return _WORD.findall(whole(text).lower())


def train_words(
    texts: Iterable[str],
    vocab_size: int = 10_000,
    least: int = 1,
    context: int = 64,
    padding: Literal["longest", "max"] = "longest",
    special: str = "",
) -> Words:
    """The `vocab_size` - 2 most frequent words of texts that occur at least `least` times; of
    equally frequent ones, those first in the alphabet.

    Raises InputError for a vocabulary without room for a word.
    """
    if vocab_size <= _FIRST or least < 1:
        raise InputError(
            f"vocab_size is {vocab_size} and least is {least}; give at least {_FIRST + 1}, and 1"
        )
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(text))
    order = sorted(counts, key=lambda word: (-counts[word], word))
    kept = [word for word in order if counts[word] >= least]
    return Words(kept[: vocab_size - _FIRST], context, padding, special)
