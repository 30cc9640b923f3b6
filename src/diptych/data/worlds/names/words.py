"""The words of `names`: invented stems, trades and legal forms with their abbreviations, and what
the reading of a text confuses.

A stem has three syllables of a consonant and a vowel. Consonants are in pairs that look alike, so
each stem has look-alikes that differ in one letter. Splits share syllables and no stem: the numbers
of a stem's vowels add up to another remainder in each.
"""

from functools import cache
from itertools import product

import numpy as np

from diptych.rng import generator

PAIRS = ("bh", "tf", "mn", "vy", "gq", "kx", "pr", "dl", "sz")
VOWELS = "aeiou"
REMAINDERS = {"train": (0, 1, 2), "val": (3,), "test": (4,)}
"""Of the sum of the numbers of a stem's vowels, by split."""
TRADES = (
    ("manufacturing", "mfg"),
    ("engineering", "engg"),
    ("shipping", "shpg"),
    ("trading", "trdg"),
    ("brewery", "brwy"),
    ("railway", "rwy"),
    ("printing", "prtg"),
    ("chemicals", "chem"),
    ("machinery", "mach"),
    ("insurance", "ins"),
    ("electric", "elec"),
    ("textiles", "text"),
    ("paper mills", "ppr mls"),
    ("steel works", "stl wks"),
    ("cold storage", "cld stg"),
    ("laboratories", "labs"),
)
FORMS = (
    ("company", "co"),
    ("limited", "ltd"),
    ("corporation", "corp"),
    ("brothers", "bros"),
    ("incorporated", "inc"),
    ("associates", "assoc"),
)
LOOK_ALIKE = {
    **{a: b for pair in PAIRS for a, b in (pair, pair[::-1])},
    "a": "o",
    "e": "c",
    "i": "l",
    "o": "0",
    "u": "v",
    "c": "e",
    "j": "i",
    "w": "vv",
}
_LETTERS = "abcdefghijklmnopqrstuvwxyz0158"
_KINDS = (0.7, 0.85)
"""An error is a look-alike up to the first share, a lost letter up to the second, else any letter."""


@cache
def vowels(split: str) -> tuple[str, ...]:
    """The vowels of three syllables that stems of a split have.

    >>> len(vowels("train")), vowels("val")[0]
    (75, 'aao')
    """
    return tuple(
        "".join(VOWELS[number] for number in numbers)
        for numbers in product(range(5), repeat=3)
        if sum(numbers) % 5 in REMAINDERS[split]
    )


def families(split: str) -> int:
    """How many families of stems a split has: stems that differ only between letters of a pair are
    one family.

    >>> families("train"), families("test")
    (54675, 18225)
    """
    return len(PAIRS) ** 3 * len(vowels(split))


@cache
def _order(seed: int, split: str) -> np.ndarray:
    return generator(seed, "names", "stems", split).permutation(families(split))


def stem_of(seed: int, split: str, family: int, sides: tuple[int, int, int]) -> str:
    """The stem of a family whose consonants are on these sides of their pairs.

    Families below `families(split)` have different stems, whatever the sides.
    """
    number = int(_order(seed, split)[family % families(split)])
    number, last = divmod(number, len(vowels(split)))
    stem = ""
    for vowel, side in zip(vowels(split)[last], sides, strict=True):
        number, pair = divmod(number, len(PAIRS))
        stem += PAIRS[pair][side] + vowel
    return stem


def misread(text: str, rate: float, rng: np.random.Generator) -> str:
    """The text with each letter read wrongly at a rate: as one that looks alike, as none, or as
    any.

    >>> misread("bokira steel works", 0.0, np.random.default_rng(0))
    'bokira steel works'
    """
    wrong = rng.random(len(text)) < rate
    kinds = rng.random(len(text))
    others = rng.integers(len(_LETTERS), size=len(text))
    return "".join(
        _wrong(letter, kind, _LETTERS[other]) if bad and letter != " " else letter
        for letter, bad, kind, other in zip(text, wrong, kinds, others, strict=True)
    )


def _wrong(letter: str, kind: float, other: str) -> str:
    if kind < _KINDS[0]:
        return LOOK_ALIKE.get(letter, other)
    return "" if kind < _KINDS[1] else other
