"""Groups of classes to search together: classes that gain most by their sentences, and classes that
are confused.

Dimensions: N images, C classes, E embedding, k clusters.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from diptych.clusters import k_means
from diptych.metrics import lab


def group_size(classes: int) -> int:
    """The number of classes in a group: 2.5 ln C, and at least two.

    >>> group_size(47), group_size(200), group_size(10)
    (9, 13, 5)
    """
    return max(2, math.floor(2.5 * math.log(classes)))


def max_confused(classes: int) -> int:
    """The number of classes in all groups of confused classes together, at most: 10 ln C.

    >>> max_confused(47), max_confused(200), max_confused(10)
    (38, 52, 10)
    """
    return min(classes, math.floor(10 * math.log(classes)))


def salient_groups(fitness: np.ndarray, baseline: float) -> list[np.ndarray]:
    """Return groups of the classes that gain 0.1 or more, or of the best two, in falling order.

    `fitness` (C,) is the fitness with all sentences of one class added, `baseline` the fitness
    without.
    """
    order = np.argsort(-fitness, kind="stable")
    salient = order[: max(2, int((fitness >= baseline + 0.1).sum()))]
    size = group_size(len(fitness))
    return [salient[start : start + size] for start in range(0, len(salient), size)]


def confused_groups(
    logits: Tensor,
    labels: np.ndarray,
    classes: Tensor,
    excluded: np.ndarray,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Return groups of a class and those that it is confused with: in the top five of at least 4 %
    of its images.

    logits (N, C), labels (N,), class embeddings (C, E); `excluded` (C,) marks classes that are in
    no group. The class with the highest cross-entropy opens the first group. Each group holds the
    classes that its first is confused with, the most frequent first; then, up to `group_size`,
    others of its cluster, the most similar first. A class is in at most one group.
    """
    C = logits.shape[1]
    count = np.bincount(labels, minlength=C).clip(1)
    losses = cross_entropy(logits, torch.as_tensor(labels).to(logits.device), reduction="none")
    cost = np.zeros(C)
    np.add.at(cost, labels, losses.cpu().numpy())
    rate = np.zeros((C, C))
    np.add.at(rate, (labels[:, None], logits.topk(min(5, C), dim=1).indices.cpu().numpy()), 1.0)
    rate /= count[:, None]
    similarity = (classes @ classes.T).cpu().numpy()
    cluster = clusters(classes.double().cpu().numpy(), rng)
    free = ~excluded
    remaining = max_confused(C)
    groups: list[np.ndarray] = []
    for first in np.argsort(-cost / count, kind="stable"):
        if not free[first] or not remaining:
            continue
        free[first] = False
        confusion = np.where(rate[first] >= 0.04, rate[first], 0.0)
        others = np.flatnonzero(free & ((confusion > 0) | (cluster == cluster[first])))
        order = others[np.lexsort((-similarity[first, others], -confusion[others]))]
        group = np.concatenate([[first], order])[: min(group_size(C), remaining)]
        free[group] = False
        remaining -= len(group)
        groups.append(group)
    return groups


def clusters(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The cluster (C,) of each class embedding (C, E), by scikit-learn's k-means.

    k is 2 where C < 25, else the odd number from 5 to C/5 with the best silhouette. Fewer than
    three classes are one cluster. Raises InputError where scikit-learn is missing.
    """
    with lab("a search for descriptions"):
        from sklearn.metrics import silhouette_score
    C = len(classes)
    if C < 3:
        return np.zeros(C, int)
    candidates = (2,) if C < 25 else range(5, C // 5 + 1, 2)
    seed = int(rng.integers(2**31))

    def silhouette(labels: np.ndarray) -> float:
        if labels.min() == labels.max():  # all embeddings are equal
            return -1.0
        return float(silhouette_score(classes, labels))

    return max((k_means(classes, k, seed)[0] for k in candidates), key=silhouette)


def require_scikit_learn() -> None:
    """Raise InputError where scikit-learn is missing; called before a search that needs it
    begins."""
    with lab("a search for descriptions"):
        import sklearn.cluster  # noqa: F401
