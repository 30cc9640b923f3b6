"""Logistic regression on frozen features, for probes and classifiers; C is chosen on held-out
samples.

    min over W, b   C · sum_i CE(W z_i + b, y_i) + |W|² / 2,   z = (x - mean) / standard deviation

Ties count against the model: a class with the same score as another gets the worse rank. A
classifier is any object with scikit-learn's `classes_` and `decision_function`.

Dimensions: N samples, D width, C classes.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from diptych.errors import InputError
from diptych.metrics import class_ranks, lab
from diptych.rng import generator

HELD_OUT = 0.2
"""The share of samples held out, to evaluate on if there is one source, or to choose C or alpha."""

CS = tuple(10.0**power for power in range(-4, 3))
"""The values of C that are tried."""


SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "grid": {"cs": CS},
    "halving": {"cs": tuple(10.0**power for power in range(-6, 7, 2)), "halvings": 4},
}
"""Searches of C for `classifier`, by name. "halving" is that of Radford et al. 2021 (CLIP),
appendix A.3, down to 8 steps per decade."""


def hold_out(
    count: int, seed: int, owners: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split the indices of `count` samples in two: to fit on, and a fifth (at least one) held out.

    With `owners` (count,), the image of each position, a fifth of the images is held out with all
    their positions.

    >>> fit, choose = hold_out(10, seed=0)
    >>> len(fit), len(choose), sorted([*fit, *choose]) == list(range(10))
    (8, 2, True)
    """
    values = np.arange(count) if owners is None else owners
    different = np.unique(values)
    if len(different) < 2:
        raise InputError(
            f"{len(different)} sample is too few to fit a probe and choose its strength; give more"
        )
    order = generator(seed, "evaluation", "kept").permutation(different)
    aside = np.isin(values, order[: max(1, round(HELD_OUT * len(order)))])
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def classifier(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    owners: np.ndarray | None = None,
    aside: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
    cs: Sequence[float] = CS,
    halvings: int = 0,
) -> tuple[Any, float]:
    """Fit scikit-learn's logistic regression on standardised features (N, D) with labels (N,);
    returns it and C.

    C is the value of `cs`, or with `halvings` a value between them, with the best accuracy on a
    held-out fifth (`best_c`); of equal ones the smallest. Then all samples are fitted. `owners` are
    those of `hold_out`. If features and labels `aside` are given, C is chosen on them instead.
    Raises InputError for fewer than two classes.
    """
    if aside is not None:
        C = best_c(cs, features, labels, *aside, halvings=halvings)
        return fitted(features, labels, C), C
    fit, held = hold_out(len(labels), seed, owners)
    if len(np.unique(labels[fit])) < 2:
        fit = held = np.arange(len(labels))  # too few samples to hold any out
    C = best_c(cs, features[fit], labels[fit], features[held], labels[held], halvings=halvings)
    return fitted(features, labels, C), C


def best_c(
    cs: Sequence[float],
    x: np.ndarray,
    y: np.ndarray,
    aside_x: np.ndarray,
    aside_y: np.ndarray,
    *,
    halvings: int = 0,
) -> float:
    """The C with the best accuracy on held-out samples; of equal ones the first.

    `cs` are a geometric sequence. Each halving halves the step on the log scale and tries the
    values on either side of the best one, which is kept if neither is better.
    """

    @cache
    def accuracy(C: float) -> float:
        return float(hits(fitted(x, y, C), aside_x, aside_y).mean())

    best = max(cs, key=accuracy)
    for halving in range(1, halvings + 1):
        step = (cs[1] / cs[0]) ** 0.5**halving
        best = max((best, best / step, best * step), key=accuracy)
    return best


def fitted(x: np.ndarray, y: np.ndarray, C: float) -> Any:
    """Fit a scikit-learn pipeline of `StandardScaler` and `LogisticRegression` with one C."""
    with lab("a linear probe"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    if len(np.unique(y)) < 2:
        raise InputError(
            "all samples that a probe learns from are of one class; give samples of others too"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The number of unique classes is greater than 50%"
        )  # as with one shot
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(x, y)


def weights(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """The weights (C, D) and biases (C,) of a `fitted` regression, for features that are not
    standardised.

    >>> x, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 3
    >>> model = fitted(x, y, 1.0)
    >>> W, b = weights(model)
    >>> np.allclose(x @ W.T + b, model.decision_function(x))
    True
    """
    scaler, regression = (step for _, step in model.steps)
    W = regression.coef_
    b = regression.intercept_
    if len(W) == 1:  # two classes have one decision function
        W = np.concatenate([-W, W]) / 2
        b = np.concatenate([-b, b]) / 2
    W = W / scaler.scale_
    return W, b - W @ scaler.mean_


def hits(model: Any, test_x: np.ndarray, test_y: np.ndarray, top: int = 1) -> np.ndarray:
    """Whether each test sample's class is among a classifier's first `top`: (M,) bool for features
    (M, D)."""
    scores = model.decision_function(test_x)
    if scores.ndim == 1:  # two classes
        scores = np.stack([-scores, scores], 1)
    return among_first(scores, model.classes_, test_y, top)


def among_first(scores: Any, classes: np.ndarray, labels: np.ndarray, top: int = 1) -> np.ndarray:
    """Whether the right class is among the `top` highest scores (M,).

    `scores` (M, C) are those of `classes` (C,); `labels` are (M,).
    """
    place = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return (class_ranks(scores, place) <= top) & (classes[place] == labels)
