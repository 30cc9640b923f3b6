"""Noise of sentences: the kinds of typos that are reserved, and words in another order."""

import re

import numpy as np

from diptych.data.typos import reordered

RESERVED_TYPOS = ("neighbour", "lookalike", "split")
"""The kinds that occur only in the split `test`."""

SHUFFLES = ("all", "window")


def shuffle(text: str, reach: str, rng: np.random.Generator) -> str:
    """The words in another order (`data.typos.reordered`), without commas: all of them ("all"), or in
    windows of three ("window").

    >>> from diptych.rng import generator
    >>> shuffle("By right, the old king carries a drum.", "window", generator(0))
    'The by right carries king old drum a.'
    """
    mixed = " ".join(reordered(re.findall(r"[\w']+", text.lower()), reach, rng))
    return f"{mixed[0].upper()}{mixed[1:]}."
