"""Logistic regression of features: how C is looked for, and its weights for features as they
are."""

import numpy as np
import pytest

from diptych import linear
from diptych.linear import SEARCHES, best_c, fitted, weights


def clusters(seed, count=80, classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(1000).normal(size=(classes, 4))
    return 5 + 3 * (centres[labels] + rng.normal(size=(count, 4))), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_weights_give_the_probabilities_of_scikit_learn_on_features_as_they_are(classes):
    x, y = clusters(0, classes=classes)
    x[:, 3] = 7.0  # a feature that never varies
    model = fitted(x, y, 0.3)
    W, b = weights(model)
    logits = x @ W.T + b
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, model.predict_proba(x), atol=1e-9)


def test_halvings_come_to_the_best_of_the_fine_grid_where_there_is_one_peak(monkeypatch):
    tried = []

    def right(C, x, y):
        tried.append(C)
        return np.array(
            [-abs(np.log10(C) - 1.3)]
        )  # the nearest step of an eighth of a decade is 1.25

    monkeypatch.setattr(linear, "fitted", lambda x, y, C: C)
    monkeypatch.setattr(linear, "hits", right)
    x, y = clusters(0)
    found = best_c(x=x, y=y, aside_x=x, aside_y=y, **SEARCHES["halving"])
    assert np.log10(found) == pytest.approx(1.25)
    assert len(tried) == len(set(tried)) == 7 + 2 * 4


def test_of_equal_ones_the_first_of_the_grid_stays(monkeypatch):
    monkeypatch.setattr(linear, "fitted", lambda x, y, C: C)
    monkeypatch.setattr(linear, "hits", lambda C, x, y: np.array([C < 10]))
    x, y = clusters(0)
    assert best_c(x=x, y=y, aside_x=x, aside_y=y, **SEARCHES["halving"]) == 1e-6
