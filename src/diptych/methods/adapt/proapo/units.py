"""The units of each class, as text: each of its names alone, and each sentence about it with each
name.

A unit is defined in `models.class_prompts`. Dimensions: C classes, K units of the class that has most, G
sets.
"""

import re
from collections.abc import Sequence

import numpy as np

from diptych.data.templates import written
from diptych.models.class_prompts import Unit

SAMPLES = 16  # random initial sets of each of two kinds


def units_of(
    name: str, sentences: Sequence[str] = (), synonyms: Sequence[str] = ()
) -> tuple[Unit, ...]:
    """The different units of a class, names first.

    Sentences are lower-cased, and the class name (as `written`) in them is replaced by the unit's
    name.

    >>> units_of("Cat", ["A cat has whiskers."], ["house cat"])
    (('Cat', ''), ('house cat', ''), ('Cat', 'a Cat has whiskers.'), ('house cat', 'a house cat has whiskers.'))
    """
    name = written(name)
    pattern = re.compile(rf"(?<!\w){re.escape(name.lower())}(?!\w)")
    names = tuple(dict.fromkeys([name, *synonyms]))
    units = [(synonym, "") for synonym in names]
    for synonym in names:
        for sentence in sentences:
            text = synonym.join(pattern.split(sentence.lower()))
            units.append((synonym, text))
    return tuple(dict.fromkeys(units))


def unit_masks(units: Sequence[Sequence[Unit]]) -> tuple[np.ndarray, np.ndarray]:
    """Two masks (C, K): the positions that hold a unit, and those that hold a name alone."""
    shape = (len(units), max(map(len, units)))
    exists = np.zeros(shape, bool)
    name_only = np.zeros(shape, bool)
    for row, own in enumerate(units):
        exists[row, : len(own)] = True
        name_only[row, : len(own)] = [not sentence for _, sentence in own]
    return exists, name_only


def initial_sets(exists: np.ndarray, name_only: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return sets (G, C, K) that a search can start from: all sentences, all names alone, and
    random samples of sentences.

    A sample holds between a third and all sentences of a class. In half of the samples the number
    is drawn for each class, in the others once for all classes. A class without sentences has its
    names instead [ours].
    """
    sentences = exists & ~name_only
    pool = np.where(sentences.any(1, keepdims=True), sentences, name_only)
    total = pool.sum(1)
    least = np.floor(total / 3 + 0.71).astype(int)
    own_sizes = rng.integers(least, total + 1, (SAMPLES, len(total)))
    shared_sizes = np.minimum(rng.integers(least.max(), total.max() + 1, (SAMPLES, 1)), total)
    sizes = np.concatenate([own_sizes, shared_sizes])
    keys = np.where(pool, rng.random((2 * SAMPLES, *pool.shape)), np.inf)
    rank = keys.argsort(2).argsort(2)
    return np.concatenate([pool[None], name_only[None], rank < sizes[..., None]])
