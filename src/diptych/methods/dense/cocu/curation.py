"""Concepts of images: those that captions of similar images mention, and that a model of images and texts
finds in the image.

    M     = the concepts in the captions of the L images nearest to x
    g_c   = <t_c, x>,    l_c = g_c / mean over R_c of <t_c, v>,    score_c = g_c / max_{c, v} <t_c, v> + l_c

t_c is the vector of "a photo of a {c}". R_c are those of the L images whose captions mention c, and x once
more. The maximum is over all concepts of M and their R_c. M is divided into |M| / 2 clusters, rounded up,
of concepts with near vectors.

Dimensions: N images, C concepts, M concepts of an image, L neighbours, E embedding.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.clusters import k_means
from diptych.errors import InputError
from diptych.metrics import nearest

PROMPT = "a photo of a {}"
NEIGHBOURS = 8
RESTARTS = 5
ITERATIONS = 100
"""Those of k-means."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_AT_ONCE = 4096  # images whose neighbours are looked for together


class Gallery:
    """A list of concepts, and which of them a text mentions.

    `names` are made lower case, each once. A text mentions a name if successive words of it are the
    name's, of which the last one may be plural. Unlike those of `data.matcher.Matcher`, mentions may
    overlap, and finding them takes the same time for any number of names.

    >>> gallery = Gallery(["dog", "Hot dog", "cat"])
    >>> gallery.names, gallery.mentioned("Hot-dogs and a caterpillar")
    (('dog', 'hot dog', 'cat'), [0, 1])
    """

    def __init__(self, names: Sequence[str]):
        split = {" ".join(name.split()).lower(): tuple(_words(name)) for name in names}
        found = {name: words for name, words in split.items() if words}
        self.names = tuple(found)
        if not found:
            raise InputError("the gallery has no names of concepts; give one at least")
        self._longest = max(map(len, found.values()))
        self._numbers: dict[tuple[str, ...], int] = {}
        for number, words in enumerate(found.values()):
            self._numbers.setdefault(words, number)
        for number, (*first, last) in enumerate(found.values()):
            for plural in _plurals(last):  # a name of its own goes before another one's plural
                self._numbers.setdefault((*first, plural), number)

    def mentioned(self, text: str) -> list[int]:
        """The numbers of the names that a text mentions, ascending."""
        words = tuple(_words(text))
        found = {
            self._numbers.get(words[start : start + count])
            for count in range(1, self._longest + 1)
            for start in range(len(words) - count + 1)
        }
        return sorted(found - {None})  # type: ignore[type-var]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _plurals(word: str) -> Iterator[str]:
    yield f"{word}s"
    yield f"{word}es"
    if word.endswith("y"):
        yield f"{word[:-1]}ies"


@dataclass(frozen=True, eq=False)
class Concepts:
    """The numbers (M,) of an image's concepts in the gallery, the best first, with their scores (M,) and
    the numbers of their clusters (M,)."""

    numbers: np.ndarray
    scores: np.ndarray
    clusters: np.ndarray


def no_concepts() -> Concepts:
    """Those of an image about which nothing is known."""
    return Concepts(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))


def curate(
    images: np.ndarray,
    index: np.ndarray,
    mentions: Sequence[Sequence[int]],
    concepts: np.ndarray,
    *,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Concepts]:
    """Yield the concepts of each of the images (N, E), from those that the captions of the images of
    an index (I, E) mention, ascending numbers of the `concepts` (C, E). All vectors are unit vectors.

    Concepts of equal scores are in the gallery's order. An image whose neighbours mention none has
    none, nor has one with no cosine above 0. `progress` is told how many images are done.

    >>> x = np.eye(2)
    >>> found = list(curate(x, x, [[0], [1]], x, neighbours=1))
    >>> [each.numbers.tolist() for each in found], found[0].scores.tolist()
    ([[0], [1]], [2.0])
    """
    for start in range(0, len(images), _AT_ONCE):
        some = images[start : start + _AT_ONCE]
        rows, _ = nearest(some, index, neighbours)
        for at, (own, near) in enumerate(zip(some, rows, strict=True)):
            said = [mentions[row] for row in near]
            yield _of_image(own, index[near], said, concepts, seed)
            if progress is not None:
                progress(start + at + 1)


def _of_image(
    image: np.ndarray,
    near: np.ndarray,
    mentions: Sequence[Sequence[int]],
    concepts: np.ndarray,
    seed: int,
) -> Concepts:
    """The concepts of an image (E,), given those of its neighbours (L, E)."""
    archive = np.unique(np.concatenate([np.asarray(own, np.int64) for own in mentions]))
    if not len(archive):
        return no_concepts()
    vectors = concepts[archive]
    cosines = vectors @ np.concatenate([near, image[None]]).T
    refers = np.zeros(cosines.shape, bool)
    refers[:, -1] = True
    for column, own in enumerate(mentions):
        refers[np.searchsorted(archive, own), column] = True
    scores = concept_scores(cosines, refers)
    if scores is None:
        return no_concepts()
    count = -(-len(archive) // 2)
    how = {"restarts": RESTARTS, "iterations": ITERATIONS}
    clusters = k_means(vectors, count, seed, **how)[0] if count > 1 else np.zeros(len(archive), int)
    order = np.argsort(-scores, kind="stable")
    return Concepts(archive[order], scores[order], clusters[order])


def concept_scores(cosines: np.ndarray, refers: np.ndarray) -> np.ndarray | None:
    """The scores (M,) of concepts, from their cosines (M, L + 1) with the neighbours of an image and,
    last, with the image, and which of these are their references (M, L + 1); None if no cosine is
    above 0.

    A concept whose references have a mean cosine of 0 has no relative part.

    >>> concept_scores(np.array([[0.32, 0.22], [0.2, 0.28]]), np.array([[False, True], [True, True]]))
    array([1.78571429, 2.16666667])
    """
    largest = cosines[refers].max()
    if largest <= 0:
        return None
    own = cosines[:, -1]
    means = (cosines * refers).sum(1) / refers.sum(1)
    relative = np.divide(own, means, out=np.zeros_like(own), where=means != 0)
    return own / largest + relative
