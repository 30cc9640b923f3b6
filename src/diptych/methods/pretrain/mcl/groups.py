"""Groups of samples that the stages so far cannot tell apart.

Dimensions: N samples, E embedding, K clusters.
"""

from collections.abc import Sequence

import numpy as np


def combined(labels: Sequence[np.ndarray], clusters: int) -> np.ndarray:
    """Return the groups (N,) of samples that are in the same cluster of every stage: the numbers
    whose digits to the base `clusters` are the labels (N,), the first stage's first.

    >>> combined([np.array([0, 1, 2]), np.array([3, 0, 9])], 10)
    array([ 3, 10, 29])
    """
    total = np.zeros(len(labels[0]), np.int64)
    for each in labels:
        total = total * clusters + each
    return total


def merged(groups: np.ndarray, vectors: np.ndarray, least: int) -> np.ndarray:
    """Return the groups (N,) with those of fewer than `least` samples merged, the smallest first,
    each into the group with the nearest centroid in `vectors` (N, E).

    >>> vectors = np.array([[0.0], [0.1], [1.0], [9.0], [9.1]])
    >>> merged(np.array([4, 4, 5, 7, 7]), vectors, 2)
    array([4, 4, 4, 7, 7])
    """
    names, places, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, places, vectors)
    counts = counts.astype(float)
    parent = np.arange(len(names))
    alive = np.ones(len(names), bool)
    while alive.sum() > 1:
        small = int(np.where(alive, counts, np.inf).argmin())
        if counts[small] >= least:
            break
        alive[small] = False
        centroids = sums / counts[:, None]
        distances = np.square(centroids - centroids[small]).sum(1)
        nearest = int(np.where(alive, distances, np.inf).argmin())
        parent[parent == small] = nearest
        sums[nearest] += sums[small]
        counts[nearest] += counts[small]
    return names[parent[places]]


def coverage(groups: np.ndarray, batch: int) -> float:
    """Return the share of the samples that are in whole batches of one group.

    >>> coverage(np.array([0] * 10 + [1] * 4), 4)  # 8 of 10, and 4 of 4
    0.8571428571428571
    """
    counts = np.unique(groups, return_counts=True)[1]
    return float((counts // batch * batch).sum() / len(groups))
