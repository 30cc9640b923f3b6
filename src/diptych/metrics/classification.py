"""Metrics of classes: accuracy, areas under curves, thresholds.

Dimensions: N samples, C classes, K rankings.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from diptych.errors import InputError
from diptych.metrics.arrays import TIE, Array, finite


def accuracy(scores: Array, labels: Array, topk: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Top-k accuracy for each k, of scores (N, C) and labels (N,).

    >>> accuracy(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([1, 0]), topk=(1,))  # a tie is no hit
    {1: 0.5}
    """
    rank = class_ranks(scores, labels)
    return {k: float((rank <= k).mean()) for k in topk}


def class_ranks(scores: Array, labels: Array) -> np.ndarray:
    """The rank (N,) of each sample's right class among scores (N, C).

    It is 1 + the number of other classes with the same or a higher score.

    Scores that differ by less than `TIE` times the largest absolute value of their row count as
    equal.

    >>> class_ranks(np.array([[0.3, 0.3 + 1e-8], [0.9, 0.1]]), np.array([1, 0]))
    array([2, 1])
    """
    values = finite("scores", scores)
    index = torch.as_tensor(labels).long().to(values.device)
    if values.shape[:1] != index.shape or (
        len(index) and not 0 <= int(index.min()) <= int(index.max()) < values.shape[1]
    ):
        raise InputError(
            f"labels {tuple(index.shape)} do not fit scores {tuple(values.shape)}; give one class a sample"
        )
    slack = TIE * values.abs().amax(1, keepdim=True)
    return (values >= values.gather(1, index[:, None]) - slack).sum(1).cpu().numpy()


def per_class(hits: Array, labels: Array, classes: int) -> np.ndarray:
    """The mean of `hits` (N,) over the samples of each class (C,); NaN for a class without samples.

    >>> per_class(np.array([1, 0, 1]), np.array([0, 0, 2]), 3)
    array([0.5, nan, 1. ])
    """
    index = np.asarray(labels)
    values = np.asarray(hits, dtype=np.float64)
    count = np.bincount(index, minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(index, weights=values, minlength=classes) / count


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs of a positive and another sample (N,) in which the positive one has the
    higher score; equal scores are half a pair. NaN if all samples are of one kind.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    values, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place, minlength=len(values))
    below = np.cumsum(counts) - counts
    rank = (below + (counts + 1) / 2)[place]
    hits = int(positive.sum())
    others = len(positive) - hits
    if not hits or not others:
        return math.nan
    return float((rank[positive].sum() - hits * (hits + 1) / 2) / (hits * others))


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """The average precision (K,) of K rankings of N items by scores (N, K), given which items are
    relevant (N, K) bool; NaN of a ranking without a relevant item.

        AP = Σ_t (R_t - R_t-1) P_t

    t are the different scores from the highest, P_t and R_t precision and recall among the items whose
    score is at least t. Items of equal score are one group, so that the order of the items does not
    matter: equal scores of all give the share of relevant items. This is scikit-learn's
    `average_precision_score`.

    >>> average_precision(np.array([[3.0], [2.0], [2.0], [1.0]]), np.array([[0], [1], [0], [1]], bool))
    array([0.41666667])
    """
    found = np.full(scores.shape[1], np.nan)
    for column, (values, right) in enumerate(zip(scores.T, relevant.T, strict=True)):
        total = int(right.sum())
        if not total:
            continue
        order = np.argsort(-values, kind="stable")
        last = np.append(np.diff(values[order]) != 0, True)  # of each group
        hits = np.cumsum(right[order])[last]
        precision = hits / (np.flatnonzero(last) + 1)
        found[column] = float(np.sum(np.diff(hits, prepend=0) * precision)) / total
    return found


def precision_at(scores: np.ndarray, relevant: np.ndarray, count: int | None = None) -> np.ndarray:
    """The precision (K,) among the first `count` of K rankings of N items by scores (N, K), given which
    items are relevant (N, K) bool; NaN of a ranking without a relevant item.

    Without `count` it is R-Precision: R is the number of relevant items of the ranking. Ties count
    against.

    >>> right = np.array([[1], [0], [1]], bool)
    >>> precision_at(np.array([[3.0], [2.0], [1.0]]), right), precision_at(np.array([[3.0], [2.0], [1.0]]), right, 1)
    (array([0.5]), array([1.]))
    """
    total = relevant.sum(0)
    order = np.lexsort((relevant, -scores), axis=0)
    first = np.arange(1, len(scores) + 1)[:, None]
    most = total if count is None else np.full(len(total), min(count, len(scores)))
    hits = (np.take_along_axis(relevant, order, 0) & (first <= most)).sum(0)
    return np.where(total > 0, hits / np.maximum(most, 1), np.nan)


def precision_recall_f1(found: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and their harmonic mean of pairs that were found, given the true ones, both bool
    of one shape; NaN where there are none to divide by.

    >>> precision_recall_f1(np.array([True, True, False]), np.array([True, False, True]))
    (0.5, 0.5, 0.5)
    """
    hits = int((found & truth).sum())
    shown = [int(found.sum()), int(truth.sum())]
    precision, recall = (hits / count if count else math.nan for count in shown)
    return precision, recall, 2 * hits / sum(shown) if sum(shown) else math.nan


def best_threshold(scores: np.ndarray, visual: np.ndarray) -> float:
    """The threshold of scores (N,) above which a text is classified as visual with the best macro
    F1.

        F1 = mean of 2 TP / (2 TP + FP + FN) over the two classes

    `visual` (N,) is the ground truth. The threshold is midway between two scores; of several
    equally good ones it is the middle one. Raises InputError if all texts are of one class.

    >>> best_threshold(np.array([0.25, 0.5, 0.75, 1.0]), np.array([0, 0, 1, 1]))
    0.625
    """
    visual = np.asarray(visual, bool)
    if visual.all() or not visual.any():
        raise InputError(
            f"{int(visual.sum())} of the {len(visual)} texts to find a threshold by are visual; some must "
            "be, and some not: give texts of both kinds, with a label that says which"
        )
    values, number = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    ours = np.bincount(number, visual).cumsum()[
        :-1
    ]  # visual texts at or below each score but the last
    others = np.bincount(number, ~visual).cumsum()[:-1]
    if not len(ours):
        raise InputError(
            f"all {len(visual)} texts to find a threshold by have the score {values[0]:g}; the model that "
            "made them is broken"
        )
    positives = visual.sum()
    negatives = (~visual).sum()
    of_visual = 2 * (positives - ours) / (2 * positives - ours + negatives - others)
    of_others = 2 * others / (negatives + others + ours)
    total = of_visual + of_others
    best = np.flatnonzero(total >= total.max() - 1e-12)
    at = best[len(best) // 2]
    return float((values[at] + values[at + 1]) / 2)


def harmonic_mean(a: float, b: float) -> float:
    """The harmonic mean 2ab / (a + b), or 0 if both are 0.

    >>> harmonic_mean(1.0, 0.5), harmonic_mean(0.0, 0.0)
    (0.6666666666666666, 0.0)
    """
    return 2 * a * b / (a + b) if a + b else 0.0
