"""Noise of texts that a reader hardly notices: typos by kind, and words in another order.

misspell    letters swapped, dropped, doubled, replaced by a neighbouring key or a look-alike, words split
reordered   words moved: anywhere, in windows of three, or two neighbours
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LOOKS = {"o": "0", "l": "1", "i": "1", "e": "3", "s": "5", "b": "6", "t": "7"}


def _beside(letter: str) -> str:
    """The neighbouring keys of a Latin letter, in its case; none of another letter."""
    for row in _ROWS:
        at = row.find(letter.lower())
        if at >= 0:
            keys = row[max(0, at - 1) : at] + row[at + 1 : at + 2]
            return keys if letter.islower() else keys.upper()
    return ""


def _swap(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :] if at + 2 < len(word) else word


def _drop(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + word[at + 1 :]


def _double(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + word[at] + word[at:]


def _neighbour(word: str, at: int, rng: np.random.Generator) -> str:
    keys = _beside(word[at])
    if not keys:
        return word
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

ORDERS = ("all", "window", "pair")
"""How far words move: anywhere, within three consecutive words, or two neighbours that change
places."""


def misspell(
    text: str, kinds: Sequence[str], rate: float, rng: np.random.Generator, min_typos: int = 1
) -> str:
    """The text with a typo in each word of 4 letters or more with probability `rate`, and in at
    least `min_typos` (0 or 1) of them.

    First and last letters are kept. The kind is drawn for each word from those of `kinds` that
    change it. A text without such words is returned as it is.

    >>> from diptych.rng import generator
    >>> misspell("The old king carries a drum.", ["double"], 0.0, generator(0))
    'The old king carriees a drum.'
    """
    pieces = re.split(r"((?:[^\W\d_]|')+)", text)
    long = [at for at in range(1, len(pieces), 2) if len(pieces[at]) >= 4 and pieces[at].isalpha()]
    chosen = [at for at in long if rng.random() < rate]
    if not chosen and long and min_typos:
        chosen = [long[int(rng.integers(len(long)))]]
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


def reordered(words: Sequence[str], reach: str, rng: np.random.Generator) -> list[str]:
    """The words in another order: all of them ("all"), in windows of three ("window"), or with two
    neighbours exchanged ("pair").

    Words of which no other order can be made are returned as they are.

    >>> from diptych.rng import generator
    >>> reordered("the old king carries a drum".split(), "pair", generator(0))
    ['the', 'old', 'carries', 'king', 'a', 'drum']
    """
    words = list(words)
    if reach == "pair":
        differ = [at for at in range(len(words) - 1) if words[at] != words[at + 1]]
        if differ:
            at = differ[int(rng.integers(len(differ)))]
            words[at], words[at + 1] = words[at + 1], words[at]
        return words
    size = max(1, len(words)) if reach == "all" else 3
    starts = range(0, len(words), size)
    if all(len(set(words[start : start + size])) < 2 for start in starts):
        return words
    order = list(range(len(words)))
    while [words[at] for at in order] == words:
        parts = (rng.permutation(range(start, min(start + size, len(words)))) for start in starts)
        order = [int(at) for part in parts for at in part]
    return [words[at] for at in order]
