"""Where the words of a page are: cells of a grid of letters, and what the page says.

A page is filled from the top. Places are counted in letters from the left and in lines from the top.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.data.worlds.pages.words import LONGEST, TOTAL, WORDS, value

GAP = 1
"""Letters between two columns."""
_COLUMN = LONGEST + GAP
_EMPTY = 0.15  # share of the places of running words that stay empty


@dataclass(frozen=True, slots=True)
class Word:
    """A word, the column of its first letter, and its line."""

    text: str
    column: int
    line: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that the page answers, and the number of the word that is its answer."""

    question: str
    answer: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The words in reading order, and all that can be asked."""

    words: tuple[Word, ...]
    asked: tuple[Asked, ...]


def least_columns(kind: str, length: int) -> int:
    """The letters that a line of this kind needs."""
    if kind == "text":
        return LONGEST
    if kind == "receipt":
        return _COLUMN + 3  # a price has three digits
    return _COLUMN + max(length, LONGEST if kind == "table" else 1)


def text(columns: int, lines: int, length: int, rng: np.random.Generator) -> Layout:
    """One to three columns of words, each word once; asked is the next word."""
    most = min(3, (columns + GAP) // _COLUMN)
    wide = int(rng.integers(1, most + 1))
    drawn = iter(_several(wide * lines, rng))
    words = [
        Word(next(drawn), at * _COLUMN, line)
        for line in range(lines)
        for at in range(wide)
        if (line, at) in {(0, 0), (lines - 1, wide - 1)} or rng.random() >= _EMPTY
    ]
    asked = [
        Asked(f"which word follows {word.text}?", at + 1) for at, word in enumerate(words[:-1])
    ]
    return Layout(tuple(words), tuple(asked))


def form(columns: int, lines: int, length: int, rng: np.random.Generator) -> Layout:
    """A key and its value on each line; no key is there twice."""
    words: list[Word] = []
    asked = []
    for line, key in enumerate(_several(lines, rng)):
        words += [Word(key, 0, line), Word(value(length, rng), _COLUMN, line)]
        asked.append(Asked(f"what is {key}?", len(words) - 1))
    return Layout(tuple(words), tuple(asked))


def table(columns: int, lines: int, length: int, rng: np.random.Generator) -> Layout:
    """Names of columns and of rows, each once, and a value for each pair of them."""
    wide = max(1, (columns + GAP) // _COLUMN - 1)
    names = _several(wide + lines - 1, rng)
    heads = names[:wide]
    words = [Word(name, (at + 1) * _COLUMN, 0) for at, name in enumerate(heads)]
    asked = []
    for line, name in enumerate(names[wide:], 1):
        words.append(Word(name, 0, line))
        for at, head in enumerate(heads):
            words.append(Word(value(length, rng), (at + 1) * _COLUMN, line))
            asked.append(Asked(f"what is the {head} of {name}?", len(words) - 1))
    return Layout(tuple(words), tuple(asked))


def receipt(columns: int, lines: int, length: int, rng: np.random.Generator) -> Layout:
    """Things with their prices, each once, and the total."""
    words: list[Word] = []
    asked = []
    total = 0
    for line, thing in enumerate(_several(lines - 1, rng)):
        price = int(rng.integers(1, 100 if lines < 10 else 40))
        total += price
        words += [
            Word(thing, 0, line),
            Word(f"{price:>3}".strip(), columns - len(str(price)), line),
        ]
        asked.append(Asked(f"what is the price of {thing}?", len(words) - 1))
    shown = str(total)
    words += [Word(TOTAL, 0, lines - 1), Word(shown, columns - len(shown), lines - 1)]
    asked.append(Asked("what is the total?", len(words) - 1))
    return Layout(tuple(words), tuple(asked))


KINDS = {"text": text, "form": form, "table": table, "receipt": receipt}


def _several(count: int, rng: np.random.Generator) -> Sequence[str]:
    """Words that differ; beyond the number of words, made-up ones of as many letters."""
    chosen = [WORDS[at] for at in rng.permutation(len(WORDS))[:count].tolist()]
    there = set(chosen)
    while len(chosen) < count:
        other = value(LONGEST, rng)
        if other not in there:
            chosen.append(other)
            there.add(other)
    return chosen
