"""The words of pages, and what can be asked of them."""

import numpy as np

WORDS = (
    *("apple", "bank", "bell", "bird", "boat", "book", "box", "bread", "brick", "bus"),
    *("cable", "cake", "camp", "card", "cart", "cheese", "city", "clock", "coal", "coat"),
    *("coin", "cook", "copper", "corn", "cotton", "court", "cup", "date", "desk", "dog"),
    *("door", "drum", "duck", "egg", "engine", "farm", "field", "film", "fish", "flag"),
    *("floor", "flour", "fork", "frame", "fruit", "game", "garden", "gate", "glass", "glove"),
    *("gold", "grain", "green", "guest", "hall", "hammer", "hand", "harbor", "hat", "hill"),
    *("honey", "horse", "hotel", "house", "ink", "iron", "island", "jam", "key", "lake"),
    *("lamp", "leaf", "letter", "lock", "map", "market", "milk", "mill", "mirror", "money"),
    *("nail", "name", "oil", "orange", "paint", "paper", "park", "pear", "pen", "pipe"),
    *("plate", "port", "rail", "rice", "ring", "river", "road", "rope", "salt", "ship"),
)
"""A hundred words of three to six letters, which pages are made of."""
LONGEST = 6
"""The letters of the longest word."""
TOTAL = "total"

_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"


def value(length: int, rng: np.random.Generator) -> str:
    """A made-up word of consonants and vowels in turns.

    >>> value(4, np.random.default_rng(0))
    'tone'
    """
    kinds = (_CONSONANTS, _VOWELS)
    return "".join(kinds[at % 2][rng.integers(len(kinds[at % 2]))] for at in range(length))
