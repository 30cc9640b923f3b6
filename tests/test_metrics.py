"""Metrics against brute force in plain Python and against scikit-learn, with many ties."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, top_k_accuracy_score

from diptych import metrics
from diptych.errors import InputError
from diptych.metrics import (
    accuracy,
    chance_recall,
    class_ranks,
    mean_average_precision,
    median_rank,
    per_class,
    ranks,
    recall_at_k,
)

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def problems(draw, ties: bool | None = None):
    """Queries, gallery, right items; small integers make ties, and products that are exact."""
    q, g, d = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    tied = draw(st.booleans()) if ties is None else ties
    queries, gallery = (rng.integers(-1, 2, (n, d)).astype(float) if tied else rng.normal(size=(n, d)) for n in (q, g))
    positives = [rng.choice(g, rng.integers(1, g + 1), replace=False).tolist() for _ in range(q)]
    return queries, gallery, positives


def brute_ranks(queries, gallery, positives):
    found = []
    for query, right in zip(queries, positives, strict=True):
        scores = [sum(a * b for a, b in zip(query, item, strict=True)) for item in gallery]
        best = max(scores[i] for i in right)
        slack = 1e-6 * math.hypot(*query) * max(math.hypot(*item) for item in gallery)
        found.append(1 + sum(score >= best - slack for i, score in enumerate(scores) if i not in right))
    return found


@SETTINGS
@given(problem=problems(), tile=st.integers(1, 10))
def test_ranks_and_recall_equal_brute_force_whatever_the_tile(problem, tile):
    expected = brute_ranks(*problem)
    assert ranks(*problem, tile=tile).tolist() == expected
    recall = recall_at_k(*problem, ks=(1, 2, 5), tile=tile)
    assert recall == {k: sum(rank <= k for rank in expected) / len(expected) for k in (1, 2, 5)}
    assert median_rank(*problem, tile=tile) == float(np.median(expected))


@SETTINGS
@given(problem=problems(), tile=st.integers(1, 10))
def test_mean_average_precision_equals_brute_force_with_ties(problem, tile):
    queries, gallery, positives = problem
    values = []
    for query, right in zip(queries, positives, strict=True):
        scores = gallery @ query
        slack = 1e-6 * np.linalg.norm(query) * np.linalg.norm(gallery, axis=1).max()
        ordered = sorted((scores[i] for i in right), reverse=True)
        wrong = [scores[i] for i in range(len(gallery)) if i not in right]
        values.append(np.mean([(n + 1) / (n + 1 + sum(w >= s - slack for w in wrong)) for n, s in enumerate(ordered)]))
    assert mean_average_precision(*problem, tile=tile) == pytest.approx(np.mean(values))


@SETTINGS
@given(problem=problems(ties=False))
def test_mean_average_precision_equals_scikit_learn_without_ties(problem):
    queries, gallery, positives = problem
    expected = [
        average_precision_score(np.isin(np.arange(len(gallery)), right), gallery @ query)
        for query, right in zip(queries, positives, strict=True)
    ]
    assert mean_average_precision(*problem) == pytest.approx(np.mean(expected))


def test_a_model_that_maps_everything_to_one_point_scores_nothing():
    same = np.ones((50, 8)) / np.sqrt(8)
    assert recall_at_k(same, same, np.arange(50), ks=(1, 10, 50)) == {1: 0.0, 10: 0.0, 50: 1.0}
    assert accuracy(np.zeros((50, 7)), np.zeros(50, int), topk=(1, 5)) == {1: 0.0, 5: 0.0}


def test_copies_of_the_right_item_tie_with_it_wherever_they_stand():
    """Rounding differs by place in the matrix; a copy must not win or lose by it."""
    rng = np.random.default_rng(0)
    gallery = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(301, 77)).astype(np.float32)), dim=1)
    gallery[[3, 150, 300]] = gallery[7].clone()
    queries = gallery[[7]].repeat(40, 1) + 0.001
    assert set(ranks(queries, gallery, np.full(40, 7), tile=7).tolist()) == {4}


def test_results_do_not_depend_on_the_order_of_the_data():
    rng = np.random.default_rng(1)
    queries, gallery = rng.integers(-1, 2, (30, 3)), rng.integers(-1, 2, (40, 3))
    right = rng.integers(0, 40, 30)
    order = rng.permutation(40)
    moved = np.argsort(order)[right]
    assert ranks(queries, gallery, right).tolist() == ranks(queries, gallery[order], moved).tolist()


@SETTINGS
@given(n=st.integers(2, 30), c=st.integers(3, 6), seed=st.integers(0, 10**6))
def test_accuracy_and_mean_per_class_equal_scikit_learn(n, c, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(n, c)), rng.integers(0, c, n)
    ours = accuracy(scores, labels, topk=(1, 2))
    for k in (1, 2):
        assert ours[k] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=np.arange(c)))
    by_class = per_class(class_ranks(scores, labels) <= 1, labels, c)
    predicted = scores.argmax(1)
    seen = np.isin(predicted, labels)  # scikit-learn warns of predictions that never occur
    if seen.all() and len(set(labels)) > 1:
        assert np.nanmean(by_class) == pytest.approx(balanced_accuracy_score(labels, predicted))


@SETTINGS
@given(right=st.lists(st.integers(1, 4), min_size=1, max_size=4), extra=st.integers(0, 6), k=st.integers(1, 4))
def test_chance_recall_is_that_of_all_orders(right, extra, k):
    gallery = 4 + extra
    expected = np.mean([
        np.mean([min(chosen) < count for chosen in combinations(range(gallery), k)]) for count in right
    ])  # fmt: skip
    assert chance_recall(right, gallery, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("queries", "positives", "message"),
    [
        (np.eye(3), [[0], [], [1]], "query 1 has no right item"),
        (np.eye(3), [[0]], "do not fit"),
        (np.full((3, 3), np.nan), [[0], [1], [2]], "not finite"),
        (np.eye(3)[0], [0], "two dimensions"),
    ],
)
def test_input_that_does_not_fit_is_named(queries, positives, message):
    with pytest.raises(InputError, match=message):
        ranks(queries, np.eye(3), positives)


def test_no_more_than_a_tile_of_scores_exists_at_once():
    queries, gallery = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (130, 50))
    shapes = [scores.shape for scores, *_ in metrics._tiles(queries, gallery, np.zeros(130, int), 64)]
    assert shapes == [(64, 50), (64, 50), (2, 50)]
