"""Links of records to exemplars, clusters of records, and their thresholds.

    link       ĵ = argmax_j s_ij, or none if s_iĵ < t
    cluster    the connected parts of the records with 1 - s_ij <= d: single linkage, cut at d, which
               is DBSCAN with one sample at least

Thresholds are chosen on records of their own: t by the accuracy of links, d, and with it the weight
of images, by random search for the adjusted Rand index.

Dimensions: Q queries, T exemplars, N records.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.suites._records import NO_ENTITY, Records, Similarity, chunks
from diptych.metrics import TIE, lab
from diptych.rng import generator

CUTS = 25
"""Random distances that are tried for each weight."""
_MOVED = 2.0


@dataclass(frozen=True)
class Links:
    """The nearest exemplar of each query (Q,), how similar it is, whether it is of the query's entity
    and no other exemplar is as similar, and whether any exemplar is of that entity."""

    nearest: np.ndarray
    score: np.ndarray
    right: np.ndarray
    known: np.ndarray

    @property
    def top1(self) -> float:
        """The share of queries with the right exemplar nearest, of those that have one."""
        return float(self.right[self.known].mean())

    def accuracy(self, threshold: float) -> float:
        """The share of queries that are linked rightly, or rightly not linked."""
        linked = self.score >= threshold
        return float(np.where(linked, self.right, ~self.known).mean())


def link(queries: Records, exemplars: Records, similarity: Similarity) -> Links:
    """Link queries to their nearest exemplars; ties between entities are wrong."""
    parts: list[tuple[np.ndarray, ...]] = []
    for rows, scores in chunks(queries, similarity, exemplars):
        own = queries.entities[rows]
        same = (own[:, None] == exemplars.entities[None]) & (own != NO_ENTITY)[:, None]
        best_right = np.where(same, scores, -np.inf).max(1)
        best_wrong = np.where(same, -np.inf, scores).max(1)
        right = best_right > best_wrong + TIE
        parts.append((scores.argmax(1), scores.max(1), right, same.any(1)))
    if not parts:
        return Links(*np.empty((2, 0)), *np.empty((2, 0), bool))
    return Links(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def split(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of exemplars, the first record of each entity, and of queries, the others.

    Of entities with one record every second one is a query, which has no exemplar. Records without
    an entity are neither.

    >>> import torch
    >>> none = torch.zeros(5, 1)
    >>> entities = np.array(["a", "b", "a", "c", ""])
    >>> exemplars, queries = split(Records(none, none, entities, entities, entities))
    >>> exemplars.tolist(), queries.tolist()
    ([0, 1], [2, 3])
    """
    named = np.flatnonzero(records.entities != NO_ENTITY)
    _, firsts, counts = np.unique(records.entities[named], return_index=True, return_counts=True)
    lonely = np.sort(named[firsts[counts == 1]])[1::2]
    exemplars = np.setdiff1d(named[firsts], lonely)
    return exemplars, np.setdiff1d(named, exemplars)


def best_threshold(links: Links) -> float:
    """Return the similarity from which links have the highest accuracy, in the middle between two
    that occur; -inf if all are linked, inf if none."""
    order = np.argsort(-links.score, kind="stable")
    score = links.score[order]
    gained = np.cumsum(np.where(links.right[order], 1, 0) - np.where(links.known[order], 0, 1))
    ends = np.flatnonzero(np.append(score[1:] < score[:-1], True))  # equal scores stay together
    best = int(ends[gained[ends].argmax()])
    if gained[best] <= 0:
        return float("inf")
    return float(score[best : best + 2].mean()) if best + 1 < len(score) else float("-inf")


@dataclass(frozen=True)
class Tree:
    """The shortest tree that joins N records: its edges between the records `first` and `second`
    (N - 1,), and their `distance`."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray

    def cut(self, distance: float) -> np.ndarray:
        """Return the number of each record's cluster (N,): edges of at most this distance join."""
        with lab("clustering"):
            from scipy.sparse.csgraph import connected_components
        kept = self.distance <= distance
        joined = _graph(self.first[kept], self.second[kept], None, len(self.distance) + 1)
        return connected_components(joined, directed=False)[1]


def tree(records: Records, similarity: Similarity) -> Tree:
    """Return the tree of single linkage with distances 1 - s, from parts of the similarities."""
    with lab("clustering"):
        from scipy.sparse.csgraph import minimum_spanning_tree
    count = len(records)
    first = np.empty(0, np.int64)
    second = np.empty(0, np.int64)
    distance = np.empty(0)
    for rows, scores in chunks(records, similarity, records):
        at, other = np.nonzero(np.arange(count)[None] > rows[:, None])
        first = np.append(first, rows[at])
        second = np.append(second, other)
        distance = np.append(distance, 1 - scores[at, other].astype(np.float64))
        # SciPy takes 0 for no edge, so distances, which may be 0, are moved
        graph = _graph(first, second, distance + _MOVED, count)
        found = minimum_spanning_tree(graph).tocoo()
        first = found.row
        second = found.col
        distance = found.data - _MOVED
    return Tree(first, second, distance)


def _graph(first: np.ndarray, second: np.ndarray, weights: np.ndarray | None, count: int) -> Any:
    from scipy.sparse import coo_array

    given = np.ones(len(first)) if weights is None else weights
    return coo_array((given, (first, second)), (count, count)).tocsr()


def rand_index(records: Records, found: np.ndarray) -> float:
    """Return the adjusted Rand index of clusters (N,), over the records with an entity."""
    with lab("the adjusted Rand index"):
        from sklearn.metrics import adjusted_rand_score
    named = records.entities != NO_ENTITY
    return float(adjusted_rand_score(records.entities[named], found[named]))


@dataclass(frozen=True)
class Cut:
    """Where the tree is cut: the distance, the weight of images, and the adjusted Rand index that
    they reached on the records on which they were chosen."""

    distance: float
    weight: float
    ari: float


def best_cut(
    records: Records,
    similarity: Callable[[float], Similarity],
    weights: Sequence[float],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Cut:
    """Return the best of random distances, `CUTS` for each weight, between 0 and the longest edge of
    its tree; `progress` counts them."""
    rng = generator(seed, "cut")
    steps = Steps(progress, CUTS * len(weights))
    best = Cut(0.0, 0.0, -np.inf)
    for weight in weights:
        found = tree(records, similarity(weight))
        for distance in rng.uniform(0, found.distance.max(initial=0), CUTS):
            ari = rand_index(records, found.cut(distance))
            steps.add(1)
            if ari > best.ari:
                best = Cut(float(distance), float(weight), ari)
    return best
