"""How alike texts are on the surface: the edits between their words, the words that they share, and
their lengths.

Words are what blanks separate, in lower case. Dimensions: N pairs, V different words.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from diptych.errors import InputError, unknown
from diptych.metrics import lab

Words = Sequence[Sequence[int]]
"""The words of each text as numbers."""


class Numbered:
    """Numbers words, in the order in which they are first seen.

    >>> numbered = Numbered()
    >>> numbered.words(["A red cat", "a cat"])
    [[0, 1, 2], [0, 2]]
    """

    def __init__(self) -> None:
        self._number: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._number)

    def words(self, texts: Sequence[str]) -> list[list[int]]:
        """The words of texts. Raises InputError for a text without any."""
        found = []
        for at, text in enumerate(texts):
            words = text.lower().split()
            if not words:
                raise InputError(f"text {at} is empty ({text!r}), and has no surface; leave it out")
            found.append([self._number.setdefault(word, len(self._number)) for word in words])
        return found


BOTH: Mapping[str, float] = MappingProxyType({"levenshtein": 1.0, "length": 1.0})
"""The weights of the kinds if none are given."""


def surface_similarity(a: Words, b: Words, weights: Mapping[str, float] = BOTH) -> np.ndarray:
    """The similarity (N,) of pairs of texts: the mean of some kinds by `weights`, each in [0, 1].

        levenshtein    1 - edits / greater length, an edit inserts, deletes or replaces a word
        jaccard        words of both / words of either, each word counted once
        length         lesser length / greater length

    Raises InputError if the numbers of texts differ, for weights as `check` does, and where
    rapidfuzz (levenshtein) or scipy (jaccard) is not installed. Source of the edits: Levenshtein
    1966.

    >>> a, b = Numbered().words(["a man is playing a guitar", "a man plays the guitar"])
    >>> [round(float(surface_similarity([a], [b], {kind: 1.0})[0]), 3) for kind in ("levenshtein", "jaccard", "length")]
    [0.5, 0.429, 0.833]
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} texts are no pairs; give as many of each")
    check(weights)
    if not len(a):
        return np.zeros(0)
    total = sum(weight * _KINDS[kind](a, b) for kind, weight in weights.items() if weight)
    return np.asarray(total) / sum(weights.values())


def check(weights: Mapping[str, float]) -> None:
    """Raise InputError for weights of kinds that do not exist, and unless they are positive in
    sum."""
    for kind in weights:
        if kind not in _KINDS:
            raise unknown("kind of surface", kind, _KINDS)
    if min(weights.values(), default=0) < 0 or not sum(weights.values()) > 0:
        raise InputError(
            f"the weights of the surface are {dict(weights)}; give some of {', '.join(_KINDS)} a positive one"
        )


def _edits(a: Words, b: Words) -> np.ndarray:
    try:
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cpdist
    except ImportError:
        raise InputError(
            "the edits between texts need rapidfuzz; install it with: pip install 'diptych[text]'"
        ) from None
    similarity: Callable = Levenshtein.normalized_similarity
    return cpdist(a, b, scorer=similarity, dtype=np.float64)


def _shared(a: Words, b: Words) -> np.ndarray:
    with lab("the share of equal words"):
        from scipy import sparse
    count = 1 + max(max(words) for words in (*a, *b))

    def table(texts: Words) -> sparse.csr_array:
        rows = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
        columns = np.concatenate([np.asarray(words) for words in texts])
        found = sparse.csr_array((np.ones(len(rows)), (rows, columns)), (len(texts), count))
        found.sum_duplicates()
        found.data[:] = 1
        return found

    one = table(a)
    other = table(b)
    both = np.asarray(one.multiply(other).sum(1)).ravel()
    either = np.asarray(one.sum(1)).ravel() + np.asarray(other.sum(1)).ravel() - both
    return both / either


def _lengths(a: Words, b: Words) -> np.ndarray:
    one, other = (np.array([len(words) for words in texts]) for texts in (a, b))
    return np.minimum(one, other) / np.maximum(one, other)


_KINDS: dict[str, Callable[[Words, Words], np.ndarray]] = {
    "levenshtein": _edits,
    "jaccard": _shared,
    "length": _lengths,
}
