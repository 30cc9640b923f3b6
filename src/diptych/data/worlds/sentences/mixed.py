"""Two kinds of sentences with the same words about things of another world: descriptions and
propositions.

    shown   "a red cat on grass that someone has no right to see", with or without "that"
    held    "someone has no right to see a red cat on grass"

Only the order of words distinguishes the two, not single words, nor the length, which filler
phrases adjust.
"""

from collections.abc import Sequence

import numpy as np

from diptych.data.worlds.sentences.grammar import fill, padding, spell
from diptych.data.worlds.sentences.words import STANCES

AGENTS = ("someone", "everybody", "anybody", "one")
VERBS = (
    "see",
    "expect",
    "explain",
    "know",
    "mind",
    "remember",
    "forget",
    "describe",
    "find",
    "mention",
)


def shown(thing: str, rng: np.random.Generator) -> str:
    """A thing with a relative clause about it, without a capital and a full stop.

    >>> shown("a red cat on grass", np.random.default_rng(2))
    'a red cat on grass that someone has promised to explain'
    """
    clause = _clause("", rng)
    return f"{thing} that {clause}" if rng.random() < 0.5 else f"{thing} {clause}"


def held(thing: str, rng: np.random.Generator) -> str:
    """The clause with the thing in it: what someone may, must or hopes to do with it, affirmed or
    negated.

    >>> held("a red cat on grass", np.random.default_rng(2))
    'someone has promised to explain a red cat on grass'
    """
    return _clause(thing, rng)


def _clause(thing: str, rng: np.random.Generator) -> str:
    wordings = list(STANCES.values())[int(rng.integers(len(STANCES)))]
    template = (
        wordings[int(rng.integers(len(wordings)))].replace(" S", " A does V O").replace(" @", "")
    )
    parts = {"A": str(rng.choice(AGENTS)), "V": str(rng.choice(VERBS)), "O": thing}
    return fill(template, parts, bool(rng.random() < 0.5)).strip()


def padded(text: str, lengths: Sequence[int], rng: np.random.Generator) -> str:
    """The text with filler phrases before and after it, a capital and a full stop.

    A shorter text gets one of the `lengths`, in words.

    >>> padded("a red cat on grass", (11,), np.random.default_rng(0))
    'As it so happens, a red cat on grass anyway, apparently.'
    """
    length = lengths[int(rng.integers(len(lengths)))]
    before, after, aside = padding(max(0, length - len(text.split())), rng)
    return spell([before, f"{text} {after}", aside])
