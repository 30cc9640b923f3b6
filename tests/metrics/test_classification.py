"""Metrics of classes against scikit-learn and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import (
    balanced_accuracy_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from diptych.metrics import (
    accuracy,
    auroc,
    class_ranks,
    harmonic_mean,
    per_class,
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
