"""What a classifier of frozen features gets right: ranks of the right class, hit rates beside chance, and how far the
number of test samples lets them vary.

Ties lose: a sample whose class shares a place with another has the worse one. A classifier is what has scikit-learn's
`classes_` and `decision_function`.

Dimensions: N samples learnt from, M judged on, D width, C classes.
"""

from typing import Any

import numpy as np

from diptych.metrics import class_ranks, per_class
from diptych.rng import generator


def hits(model: Any, test_x: np.ndarray, test_y: np.ndarray, top: int = 1) -> np.ndarray:
    """Whether a classifier puts each test sample's class among its first `top`: (M,) bool of features (M, D)."""
    scores = model.decision_function(test_x)
    if scores.ndim == 1:  # two classes
        scores = np.stack([-scores, scores], 1)
    return among_first(scores, model.classes_, test_y, top)


def among_first(scores: Any, classes: np.ndarray, labels: np.ndarray, top: int = 1) -> np.ndarray:
    """Whether the right class is among the `top` highest scores (M,): scores (M, C) of `classes` (C,), labels (M,)."""
    place = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return (class_ranks(scores, place) <= top) & (classes[place] == labels)


def hit_rates(right: np.ndarray, labels: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    """Top-1 and the mean over classes of hits (M,), and both for always naming the most common class of `labels`."""
    values, counts = np.unique(labels, return_counts=True)
    common = test_labels == values[counts.argmax()]
    classes, number = np.unique(test_labels, return_inverse=True)
    return {
        "top1": float(np.mean(right)),
        "mean_per_class": float(per_class(right, number, len(classes)).mean()),
        "chance_top1": float(common.mean()),
        "chance_mean_per_class": float(per_class(common, number, len(classes)).mean()),
    }


def report(
    model: Any, labels: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, bootstrap: int = 0, seed: int = 0
) -> dict[str, float]:
    """`hit_rates` of a classifier that learnt from `labels` (N,), and `top3` beside the three most common classes.

    With `bootstrap` also `top1_std` and `top3_std`, their spread over so many draws of the test set (`resampled`).
    """
    first, three = (hits(model, test_x, test_y, top) for top in (1, 3))
    values, counts = np.unique(labels, return_counts=True)
    common = values[np.argsort(-counts, kind="stable")[:3]]
    found = {"top3": float(three.mean()), "chance_top3": float(np.isin(test_y, common).mean())}
    if bootstrap:
        found |= {f"{name}_std": resampled(of, bootstrap, seed) for name, of in (("top1", first), ("top3", three))}
    return hit_rates(first, labels, test_y) | found


def resampled(values: np.ndarray, count: int, seed: int = 0) -> float:
    """The standard deviation of the mean of `values` (M,) over `count` draws of M of them with repetition (bootstrap).

    It tells what the test set leaves open, not what another seed of training would give. Near sqrt(p (1 - p) / M) where
    a share p of the values is 1 and the others are 0.

    >>> round(resampled(np.arange(100) < 50, 1000), 2)
    0.05
    """
    draws = generator(seed, "evaluation", "bootstrap")
    return float(np.std([values[draws.integers(len(values), size=len(values))].mean() for _ in range(count)]))
