"""Groups of classes to search together: classes that gain most by their sentences, and classes that are confused.

Dimensions: N images, C classes, E embedding, k clusters.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

RESTARTS, STEPS = 4, 100  # of k-means


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
    """Groups of the classes that gain 0.1 or more, or of the best two, in falling order.

    `fitness` (C,) is that of the prompts with all sentences of one class added, `baseline` the one without.
    """
    order = np.argsort(-fitness, kind="stable")
    salient = order[: max(2, int((fitness >= baseline + 0.1).sum()))]
    size = group_size(len(fitness))
    return [salient[start : start + size] for start in range(0, len(salient), size)]


def confused_groups(
    logits: Tensor, labels: np.ndarray, classes: Tensor, excluded: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Groups of a class and those that it is confused with: in the top five of at least 4 % of its images.

    logits (N, C), labels (N,), class embeddings (C, E); `excluded` (C,) marks classes that are in no group. The class
    with the highest cross-entropy opens the first group. Each group holds the classes that its first is confused with,
    the most frequent first; then, up to `group_size`, others of its cluster, the most similar first. A class is in one
    group at most.
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
    """The cluster (C,) of each class vector (C, E), by k-means: k of the odd numbers from 5 to C/5 that gives the best
    silhouette, 2 where C < 25."""
    C = len(classes)
    if C < 3:
        return np.zeros(C, int)
    found = [k_means(classes, k, rng) for k in ((2,) if C < 25 else range(5, C // 5 + 1, 2))]
    return max(found, key=lambda labels: silhouette(classes, labels))


def k_means(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """The cluster (C,) of each row of x (C, E): Lloyd's steps, begun by k-means++, the best of a few starts."""
    best, found = math.inf, np.zeros(len(x), int)
    for _ in range(RESTARTS):
        centres = x[[rng.integers(len(x))]]
        while len(centres) < k:
            away = _squares(x, centres).min(1)
            share = away / away.sum() if away.sum() > 0 else None
            centres = np.concatenate([centres, x[[rng.choice(len(x), p=share)]]])
        for _ in range(STEPS):
            member = _squares(x, centres).argmin(1)[:, None] == np.arange(k)
            moved = np.where(member.any(0)[:, None], member.T @ x / member.sum(0).clip(1)[:, None], centres)
            if np.array_equal(moved, centres):
                break
            centres = moved
        squares = _squares(x, centres)
        if (cost := squares.min(1).sum()) < best:
            best, found = cost, squares.argmin(1)
    return found


def _squares(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances (C, k)."""
    return ((x**2).sum(1)[:, None] - 2 * x @ centres.T + (centres**2).sum(1)).clip(0)


def silhouette(x: np.ndarray, labels: np.ndarray) -> float:
    """How well clusters (C,) of rows x (C, E) are parted: the mean over rows of (b - a) / max(a, b).

    a is the mean distance to the others of its own cluster, b to those of the nearest other; a row alone counts 0. One
    cluster gives -1. Source: Rousseeuw 1987.

    >>> silhouette(np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([0, 0, 1, 1]))
    0.8997...
    """
    names, own = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        return -1.0
    member = np.eye(len(names))[own]
    size, total = member.sum(0), np.sqrt(_squares(x, x)) @ member
    rows = np.arange(len(x))
    inside = total[rows, own] / (size[own] - 1).clip(1)
    outside = total / size
    outside[rows, own] = np.inf
    nearest = outside.min(1)
    value = (nearest - inside) / np.maximum(np.maximum(nearest, inside), 1e-12)
    return float(np.where(size[own] > 1, value, 0.0).mean())
