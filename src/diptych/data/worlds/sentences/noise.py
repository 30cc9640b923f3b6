"""Noise of sentences: typos by kind, and words in another order."""

import re
from collections.abc import Callable, Sequence

import numpy as np

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LOOKS = {"o": "0", "l": "1", "i": "1", "e": "3", "s": "5", "b": "6", "t": "7"}


def _beside(letter: str) -> str:
    """The neighbouring keys of a letter."""
    row = next(row for row in _ROWS if letter in row)
    at = row.index(letter)
    return row[max(0, at - 1) : at] + row[at + 1 : at + 2]


def _swap(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :] if at + 2 < len(word) else word


def _drop(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + word[at + 1 :]


def _double(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + word[at] + word[at:]


def _neighbour(word: str, at: int, rng: np.random.Generator) -> str:
    keys = _beside(word[at])
    return word[:at] + keys[int(rng.integers(len(keys)))] + word[at + 1 :]


def _lookalike(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + _LOOKS.get(word[at], word[at]) + word[at + 1 :]


def _split(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + " " + word[at:]


_TYPOS: dict[str, Callable[[str, int, np.random.Generator], str]] = {
    "swap": _swap,
    "drop": _drop,
    "double": _double,
    "neighbour": _neighbour,
    "lookalike": _lookalike,
    "split": _split,
}
TYPOS = tuple(_TYPOS)
"""swap, drop or double a letter; a neighbouring key; a similar character (o, 0); a space inside the
word."""

RESERVED_TYPOS = ("neighbour", "lookalike", "split")
"""The kinds that occur only in the split `test`."""

SHUFFLES = ("all", "window")


def misspell(text: str, kinds: Sequence[str], rate: float, rng: np.random.Generator) -> str:
    """The text with a typo in each word of 4 letters or more with probability `rate`, and in at
    least one.

    First and last letters are kept. The kind is drawn for each word from those of `kinds` that
    change it.

    >>> from diptych.rng import generator
    >>> misspell("The old king carries a drum.", ["double"], 0.0, generator(0))
    'The old king carriees a drum.'
    """
    pieces = re.split(r"([A-Za-z']+)", text)
    long = [at for at in range(1, len(pieces), 2) if len(pieces[at]) >= 4 and pieces[at].isalpha()]
    chosen = [at for at in long if rng.random() < rate] or [long[int(rng.integers(len(long)))]]
    for at in chosen:
        for kind in rng.permutation(list(kinds)).tolist():
            if changed := _changes(pieces[at], kind, rng):
                pieces[at] = changed[int(rng.integers(len(changed)))]
                break
    return "".join(pieces)


def _changes(word: str, kind: str, rng: np.random.Generator) -> list[str]:
    """The words that a kind of typo can make, in order of position."""
    made = (_TYPOS[kind](word, at, rng) for at in range(1, len(word) - 1))
    return [other for other in made if other != word]


def shuffle(text: str, reach: str, rng: np.random.Generator) -> str:
    """The words in another order, without commas: all of them ("all"), or in windows of three
    ("window").

    >>> from diptych.rng import generator
    >>> shuffle("By right, the old king carries a drum.", "window", generator(0))
    'The by right carries king old drum a.'
    """
    words = re.findall(r"[\w']+", text.lower())
    size = len(words) if reach == "all" else 3
    order = list(range(len(words)))
    while [words[at] for at in order] == words:
        parts = (
            rng.permutation(range(start, min(start + size, len(words))))
            for start in range(0, len(words), size)
        )
        order = [int(at) for part in parts for at in part]
    mixed = " ".join(words[at] for at in order)
    return f"{mixed[0].upper()}{mixed[1:]}."
