"""Metrics of classes against scikit-learn and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import (
    balanced_accuracy_score,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from diptych.metrics import (
    accuracy,
    auroc,
    class_ranks,
    harmonic_mean,
    per_class,
    precision_at,
    precision_recall_f1,
)

SETTINGS = settings(max_examples=60, deadline=None)


@SETTINGS
@given(n=st.integers(2, 30), c=st.integers(3, 6), seed=st.integers(0, 10**6))
def test_accuracy_and_mean_per_class_equal_scikit_learn(n, c, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(n, c)), rng.integers(0, c, n)
    ours = accuracy(scores, labels, topk=(1, 2))
    for k in (1, 2):
        assert ours[k] == pytest.approx(
            top_k_accuracy_score(labels, scores, k=k, labels=np.arange(c))
        )
    by_class = per_class(class_ranks(scores, labels) <= 1, labels, c)
    predicted = scores.argmax(1)
    seen = np.isin(predicted, labels)  # scikit-learn warns of predictions that never occur
    if seen.all() and len(set(labels)) > 1:
        assert np.nanmean(by_class) == pytest.approx(balanced_accuracy_score(labels, predicted))


@SETTINGS
@given(a=st.floats(0, 1, width=16), b=st.floats(0, 1, width=16))
def test_harmonic_mean_equals_scipy_and_lies_below_both_means(a, b):
    expected = 0.0 if a == 0 or b == 0 else float(stats.hmean([a, b]))
    assert harmonic_mean(a, b) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_the_area_under_the_curve_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 20) / 5
    positive = np.arange(20) < rng.integers(1, 20)
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert math.isnan(auroc(scores, np.ones(20, bool)))


@given(st.integers(0, 1000))
def test_precision_of_the_first_is_that_of_a_slow_ranking(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (9, 3)) / 3  # with ties
    relevant = rng.random((9, 3)) < 0.4
    for count in (None, 1, 5, 20):
        found = precision_at(scores, relevant, count)
        for column in range(3):
            own = int(relevant[:, column].sum())
            if not own:
                assert math.isnan(found[column])
                continue
            most = own if count is None else min(count, 9)
            rows = sorted(range(9), key=lambda row: (-scores[row, column], relevant[row, column]))
            right = sum(relevant[row, column] for row in rows[:most])
            assert found[column] == pytest.approx(right / most)


@given(st.integers(0, 1000))
def test_precision_and_recall_of_pairs_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    found = rng.random((6, 4)) < 0.5
    truth = rng.random((6, 4)) < 0.5
    found[0, 0] = truth[0, 0] = True
    expected = precision_recall_fscore_support(truth.ravel(), found.ravel(), average="binary")
    assert precision_recall_f1(found, truth) == pytest.approx(expected[:3])


def test_pairs_that_are_not_there_have_no_precision():
    nothing = np.zeros((2, 2), bool)
    assert all(map(math.isnan, precision_recall_f1(nothing, nothing)))
    precision, recall, f1 = precision_recall_f1(nothing, ~nothing)
    assert math.isnan(precision)
    assert (recall, f1) == (0, 0)
