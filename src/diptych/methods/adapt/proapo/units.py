"""What may tell a class, in words: each of its names alone, and each sentence about it under each name.

Units are those of `prompt_sets.py`. Dimensions: C classes, K units of the class that has most, G sets.
"""

import re
from collections.abc import Sequence

import numpy as np

from diptych.data.templates import written
from diptych.methods.adapt.proapo.prompt_sets import Unit

SAMPLES = 16  # random starts of each kind


def units_of(name: str, sentences: Sequence[str] = (), synonyms: Sequence[str] = ()) -> tuple[Unit, ...]:
    """The units of a class, none twice, names first. Sentences are in lower case and call the class by the name,
    which is `written`.

    >>> units_of("Cat", ["A cat has whiskers."], ["house cat"])
    (('Cat', ''), ('house cat', ''), ('Cat', 'a Cat has whiskers.'), ('house cat', 'a house cat has whiskers.'))
    """
    name = written(name)
    names = tuple(dict.fromkeys([name, *synonyms]))
    own = re.compile(rf"(?<!\w){re.escape(name.lower())}(?!\w)")
    told = [(called, own.sub(lambda _, by=called: by, text.lower())) for called in names for text in sentences]
    return tuple(dict.fromkeys([*((called, "") for called in names), *told]))


def table(units: Sequence[Sequence[Unit]]) -> tuple[np.ndarray, np.ndarray]:
    """Which places (C, K) hold a unit, and which of these a name alone."""
    shape = len(units), max(map(len, units))
    there, named = np.zeros(shape, bool), np.zeros(shape, bool)
    for at, each in enumerate(units):
        there[at, : len(each)] = True
        named[at, : len(each)] = [not sentence for _, sentence in each]
    return there, named


def starts(there: np.ndarray, named: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sets (G, C, K) that a search may begin from: all sentences, the names alone, and samples of sentences.

    A sample holds between a third and all of them, in half of the samples the same number in each class. A class
    without a sentence has its names [ours].
    """
    told = there & ~named
    pool = np.where(told.any(1, keepdims=True), told, named)
    n = pool.sum(1)
    least = np.floor(n / 3 + 0.71).astype(int)
    own = rng.integers(least, n + 1, (SAMPLES, len(n)))
    shared = np.minimum(rng.integers(least.max(), n.max() + 1, (SAMPLES, 1)), n)
    keys = np.where(pool, rng.random((2 * SAMPLES, *pool.shape)), np.inf)
    drawn = keys.argsort(2).argsort(2) < np.concatenate([own, shared])[..., None]
    return np.concatenate([pool[None], named[None], drawn])
