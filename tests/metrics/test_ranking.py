"""Ranks and their metrics against brute force in plain Python and scikit-learn, with many ties."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
)

from diptych.errors import InputError
from diptych.metrics import (
    accuracy,
    chance_recall,
    chance_reciprocal_rank,
    first,
    mean_average_precision,
    mean_reciprocal_rank,
    median_rank,
    nearest,
    ranking,
    ranks,
    ranks_of_two_stages,
    recall_at_k,
    similarities,
)

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def problems(draw, ties: bool | None = None):
    """Queries, gallery, right items; small integers make ties, and products that are exact."""
    q, g, d = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    tied = draw(st.booleans()) if ties is None else ties
    queries, gallery = (
        rng.integers(-1, 2, (n, d)).astype(float) if tied else rng.normal(size=(n, d))
        for n in (q, g)
    )
    positives = [rng.choice(g, rng.integers(1, g + 1), replace=False).tolist() for _ in range(q)]
    return queries, gallery, positives


def brute_ranks(queries, gallery, positives):
    found = []
    for query, right in zip(queries, positives, strict=True):
        scores = [sum(a * b for a, b in zip(query, item, strict=True)) for item in gallery]
        best = max(scores[i] for i in right)
        slack = 1e-6 * math.hypot(*query) * max(math.hypot(*item) for item in gallery)
        found.append(
            1 + sum(score >= best - slack for i, score in enumerate(scores) if i not in right)
        )
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
        values.append(
            np.mean(
                [
                    (n + 1) / (n + 1 + sum(w >= s - slack for w in wrong))
                    for n, s in enumerate(ordered)
                ]
            )
        )
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


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40),
    items=st.integers(1, 50),
    k=st.integers(1, 60),
    tile=st.integers(1, 20),
    wide=st.integers(1, 30),
    seed=st.integers(0, 100),
)
def test_nearest_equals_sorting_whatever_the_tiles(count, items, k, tile, wide, seed):
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((count, 3))
    gallery = rng.standard_normal((items, 3))
    rows, scores = nearest(queries, gallery, k, tile=tile, wide=wide)
    every = queries @ gallery.T
    assert rows.shape == scores.shape == (count, min(k, items))
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :k], atol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(every, rows, 1), scores, atol=1e-12)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_nearest_finds_itself_among_unit_vectors():
    x = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert nearest(x, x, 3)[0][:, 0].tolist() == list(range(30))


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.ones((2, 3)), 1, "width 3, a gallery of width 4"),
        (np.ones((2, 4)), 0, "the 0 nearest"),
        (np.full((2, 4), np.nan), 1, "queries holds values that are not finite"),
    ],
)
def test_nearest_refuses_what_does_not_fit(queries, k, message):
    with pytest.raises(InputError, match=message):
        nearest(queries, np.ones((5, 4)), k)


def test_a_model_that_maps_everything_to_one_point_scores_nothing():
    same = np.ones((50, 8)) / np.sqrt(8)
    assert recall_at_k(same, same, np.arange(50), ks=(1, 10, 50)) == {1: 0.0, 10: 0.0, 50: 1.0}
    assert accuracy(np.zeros((50, 7)), np.zeros(50, int), topk=(1, 5)) == {1: 0.0, 5: 0.0}


def test_copies_of_the_right_item_tie_with_it_wherever_they_stand():
    """Rounding differs by place in the matrix; a copy must not win or lose by it."""
    rng = np.random.default_rng(0)
    gallery = torch.nn.functional.normalize(
        torch.from_numpy(rng.normal(size=(301, 77)).astype(np.float32)), dim=1
    )
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
@given(
    right=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    extra=st.integers(0, 6),
    k=st.integers(1, 4),
)
def test_chance_recall_is_that_of_all_orders(right, extra, k):
    gallery = 4 + extra
    expected = np.mean(
        [
            np.mean([min(chosen) < count for chosen in combinations(range(gallery), k)])
            for count in right
        ]
    )
    assert chance_recall(right, gallery, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("queries", "positives", "message"),
    [
        (np.eye(3), [[0], [], [1]], "query 1 has no right item"),
        (np.eye(3), [[0]], "do not fit"),
        (np.full((3, 3), np.nan), [[0], [1], [2]], "not finite"),
        (np.eye(3)[0], [0], "two or three dimensions"),
    ],
)
def test_input_that_does_not_fit_is_named(queries, positives, message):
    with pytest.raises(InputError, match=message):
        ranks(queries, np.eye(3), positives)


def test_no_more_than_a_tile_of_scores_exists_at_once():
    queries, gallery = (
        torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (130, 50)
    )
    shapes = [
        scores.shape for scores, *_ in ranking._tiles(queries, gallery, np.zeros(130, int), 64)
    ]
    assert shapes == [(64, 50), (64, 50), (2, 50)]


@SETTINGS
@given(problem=problems(), tile=st.integers(1, 10))
def test_mean_reciprocal_rank_equals_brute_force(problem, tile):
    expected = np.mean([1 / rank for rank in brute_ranks(*problem)])
    assert mean_reciprocal_rank(*problem, tile=tile) == pytest.approx(expected)


@SETTINGS
@given(problem=problems(), tile=st.integers(1, 10), seed=st.integers(0, 1000))
def test_ignored_items_are_as_if_they_were_not_there(problem, tile, seed):
    queries, gallery, positives = problem
    rng = np.random.default_rng(seed)
    ignored = [
        [item for item in range(len(gallery)) if item not in right and rng.random() < 0.5]
        for right in positives
    ]
    expected = []
    for query, right, out in zip(queries, positives, ignored, strict=True):
        kept = [item for item in range(len(gallery)) if item not in out]
        scores = gallery[kept] @ query
        slack = 1e-6 * np.linalg.norm(query) * np.linalg.norm(gallery, axis=1).max()
        good = np.isin(kept, right)
        expected.append(1 + int((scores[~good] >= scores[good].max() - slack).sum()))
    assert ranks(*problem, ignored=ignored, tile=tile).tolist() == expected


@SETTINGS
@given(problem=problems(), k=st.integers(1, 10), tile=st.integers(1, 10))
def test_the_first_k_hold_a_right_item_exactly_where_its_rank_says_so(problem, k, tile):
    queries, gallery, positives = problem
    chosen = first(*problem, k, tile=tile)
    assert chosen.shape == (len(queries), min(k, len(gallery)))
    for query, items, right, rank in zip(
        queries, chosen, positives, brute_ranks(*problem), strict=True
    ):
        assert (rank <= k) == bool(set(items) & set(right))
        scores = gallery @ query
        assert len(set(items)) == len(items)
        assert (
            scores[items].min() >= np.sort(scores)[::-1][len(items) - 1] - 1e-9
        )  # no better one is left out


@SETTINGS
@given(problem=problems(), k=st.integers(1, 6), seed=st.integers(0, 1000))
def test_ranks_of_two_stages_equal_a_sort(problem, k, seed):
    positives, rank, chosen = problem[2], ranks(*problem), first(*problem, k)
    scores = np.random.default_rng(seed).integers(0, 3, chosen.shape).astype(float)
    expected = []
    for at, right in enumerate(positives):  # wrong ones go first where they tie
        ordered = sorted(zip(-scores[at], np.isin(chosen[at], right), strict=True))
        places = [place for place, (_, is_right) in enumerate(ordered, 1) if is_right]
        expected.append(places[0] if places else rank[at])
    assert ranks_of_two_stages(rank, chosen, scores, positives).tolist() == expected


@SETTINGS
@given(right=st.lists(st.integers(1, 4), min_size=1, max_size=4), extra=st.integers(0, 4))
def test_chance_reciprocal_rank_is_that_of_all_orders(right, extra):
    gallery = 4 + extra
    expected = np.mean(
        [
            np.mean([1 / (1 + min(places)) for places in combinations(range(gallery), count)])
            for count in right
        ]
    )
    assert chance_reciprocal_rank(right, gallery) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(
    q=st.integers(1, 6),
    g=st.integers(1, 7),
    k=st.integers(1, 4),
    tile=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_items_of_several_vectors_score_as_the_best_of_them(q, g, k, tile, seed):
    rng = np.random.default_rng(seed)
    queries, gallery = rng.normal(size=(q, 3)), rng.normal(size=(g, k, 3))
    positives = rng.integers(g, size=q)
    scores = np.array([[max(x @ y for y in item) for item in gallery] for x in queries])
    wanted = [
        1 + sum(scores[i, j] >= scores[i, p] for j in range(g) if j != p)
        for i, p in enumerate(positives)
    ]
    assert ranks(queries, gallery, positives, tile=tile).tolist() == wanted
    found = similarities(torch.from_numpy(queries), torch.from_numpy(gallery))
    np.testing.assert_allclose(found.numpy(), scores)
    turned = similarities(torch.from_numpy(gallery), torch.from_numpy(queries))
    np.testing.assert_allclose(turned.numpy(), scores.T)
    back = rng.integers(q, size=g)
    wanted = [
        1 + sum(scores[i, j] >= scores[p, j] for i in range(q) if i != p)
        for j, p in enumerate(back)
    ]
    assert ranks(gallery, queries, back, tile=tile).tolist() == wanted
    with pytest.raises(InputError, match="two or three dimensions"):
        ranks(queries, gallery[None], positives)
