"""The accuracy of a classifier of frozen features (`linear.hits`): hit rates beside chance, and
their sampling error. A classifier has scikit-learn's `classes_` and `decision_function`.

Dimensions: N training samples, M test samples, D width, C classes.
"""

from typing import Any

import numpy as np

from diptych.linear import hits
from diptych.metrics import per_class
from diptych.rng import generator


def hit_rates(right: np.ndarray, labels: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    """Return top-1 and the mean over classes of hits (M,), and both for always predicting the most
    common class of `labels`."""
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
    model: Any,
    labels: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """Return `hit_rates` of a classifier that was trained on `labels` (N,), and `top3` beside the
    three most common classes.

    With `bootstrap` also `top1_std` and `top3_std`, their standard deviations over that many
    bootstrap samples of the test set (`resampled`).
    """
    first, three = (hits(model, test_x, test_y, top) for top in (1, 3))
    values, counts = np.unique(labels, return_counts=True)
    common = values[np.argsort(-counts, kind="stable")[:3]]
    found = {"top3": float(three.mean()), "chance_top3": float(np.isin(test_y, common).mean())}
    if bootstrap:
        found |= {
            f"{name}_std": resampled(of, bootstrap, seed)
            for name, of in (("top1", first), ("top3", three))
        }
    return hit_rates(first, labels, test_y) | found


def resampled(values: np.ndarray, count: int, seed: int = 0) -> float:
    """Return the standard deviation of the mean of `values` (M,) over `count` bootstrap samples of
    size M.

    It measures the uncertainty due to the test set, not due to another training seed. It is near
    sqrt(p (1 - p) / M) where a share p of the values is 1 and the others are 0.

    >>> round(resampled(np.arange(100) < 50, 1000), 2)
    0.05
    """
    draws = generator(seed, "evaluation", "bootstrap")
    return float(
        np.std([values[draws.integers(len(values), size=len(values))].mean() for _ in range(count)])
    )
