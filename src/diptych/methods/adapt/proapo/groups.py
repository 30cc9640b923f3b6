"""Which classes to search together: those that their prompts help most, and those that are taken for each other.

Dimensions: N pictures, C classes, E embedding, k clusters.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

RESTARTS, STEPS = 4, 100  # of k-means


def group_size(classes: int) -> int:
    """How many classes a group has: 2.5 ln C, and two at least.

    >>> group_size(47), group_size(200), group_size(10)
    (9, 13, 5)
    """
    return max(2, math.floor(2.5 * math.log(classes)))


def considered(classes: int) -> int:
    """How many classes confusion groups hold together, at most.

    >>> considered(47), considered(200), considered(10)
    (38, 52, 10)
    """
    return min(classes, math.floor(10 * math.log(classes)))


def salient_groups(alone: np.ndarray, baseline: float) -> list[np.ndarray]:
    """Groups of the classes whose prompts help most, where they alone have theirs: `alone` (C,) are those fitnesses.

    Kept are classes that gain 0.1 or more, or the best two, in falling order.
    """
    order = np.argsort(-alone, kind="stable")
    kept = order[: max(2, int((alone >= baseline + 0.1).sum()))]
    size = group_size(len(alone))
    return [kept[start : start + size] for start in range(0, len(kept), size)]


def confused_groups(
    logits: Tensor, labels: np.ndarray, classes: Tensor, left_out: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Groups of a class and those that it is taken for: in the five likeliest of 4 % or more of its pictures.

    logits (N, C), labels (N,), classes (C, E). The class that is told worst comes first; of each class, those it is
    taken for most often; then, up to the size of a group, its neighbours in its cluster of class vectors, the nearest
    first. `left_out` (C,) tells classes that are in no group; a class is in one at most.
    """
    C = logits.shape[1]
    count = np.bincount(labels, minlength=C).clip(1)
    rate, cost = np.zeros((C, C)), np.zeros(C)
    entropy = cross_entropy(logits, torch.as_tensor(labels).to(logits.device), reduction="none")
    np.add.at(cost, labels, entropy.cpu().numpy())
    np.add.at(rate, (labels[:, None], logits.topk(min(5, C), dim=1).indices.cpu().numpy()), 1.0)
    rate /= count[:, None]
    likeness = (classes @ classes.T).cpu().numpy()
    cluster = clusters(classes.double().cpu().numpy(), rng)
    free, groups, room = ~left_out, [], considered(C)
    for first in np.argsort(-cost / count, kind="stable"):
        if not free[first] or not room:
            continue
        free[first] = False
        often = np.where(rate[first] >= 0.04, rate[first], 0.0)
        others = np.flatnonzero(free & ((often > 0) | (cluster == cluster[first])))
        order = others[np.lexsort((-likeness[first, others], -often[others]))]
        groups.append(np.concatenate([[first], order])[: min(group_size(C), room)])
        free[groups[-1]] = False
        room -= len(groups[-1])
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
