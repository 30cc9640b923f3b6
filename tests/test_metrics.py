"""Metrics against brute force in plain Python and against scikit-learn, with many ties."""

import math
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from diptych import metrics
from diptych.errors import InputError
from diptych.metrics import (
    accuracy,
    chance_recall,
    chance_reciprocal_rank,
    class_ranks,
    correlation,
    covariance_rank,
    effective_rank,
    first,
    harmonic_mean,
    isotropy,
    mean_average_precision,
    mean_reciprocal_rank,
    median_rank,
    nearest,
    per_class,
    ranks,
    ranks_of_two_stages,
    recall_at_k,
    spread,
    wasserstein_uniformity,
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
        scores.shape for scores, *_ in metrics._tiles(queries, gallery, np.zeros(130, int), 64)
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


@st.composite
def pairs_of_numbers(draw):
    n, tied = draw(st.integers(4, 30)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return tuple(
        rng.integers(0, 4, n).astype(float) if tied else rng.normal(size=n) for _ in range(2)
    )


@SETTINGS
@given(pair=pairs_of_numbers())
def test_correlations_equal_scipy_and_brute_force(pair):
    x, y = pair
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert correlation(x, y)[0] == correlation(x, y, "spearman")[0] == 0
        return

    def mean_ranks(values):
        return np.array(
            [
                np.mean([i + 1 for i, v in enumerate(np.sort(values)) if v == value])
                for value in values
            ]
        )

    def pearson(a, b):
        a, b = a - a.mean(), b - b.mean()
        return (a @ b) / math.sqrt((a @ a) * (b @ b))

    r, low, high = correlation(x, y)
    assert r == pytest.approx(pearson(x, y))
    if abs(r) < 1 - 1e-9:
        interval = stats.pearsonr(x, y).confidence_interval(0.95)
        assert (low, high) == pytest.approx((interval.low, interval.high))
    rho, low, high = correlation(x, y, "spearman")
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert rho == pytest.approx(pearson(mean_ranks(x), mean_ranks(y)))
    assert low <= rho <= high


def test_the_interval_of_fisher_covers_the_truth_as_often_as_it_says():
    """In 1,000 samples of 60 pairs of correlation 1/2 the 95 % interval of either kind holds it
    about so often."""
    rng = np.random.default_rng(0)
    true = {"pearson": 0.5, "spearman": 6 / math.pi * math.asin(0.25)}  # of normal variables
    inside = dict.fromkeys(true, 0)
    for _ in range(1000):
        x = rng.normal(size=60)
        y = 0.5 * x + math.sqrt(0.75) * rng.normal(size=60)
        for kind, value in true.items():
            _, low, high = correlation(x, y, kind)
            inside[kind] += low <= value <= high
    assert all(0.93 <= count / 1000 <= 0.97 for count in inside.values()), inside


@SETTINGS
@given(a=st.floats(0, 1, width=16), b=st.floats(0, 1, width=16))
def test_harmonic_mean_equals_scipy_and_lies_below_both_means(a, b):
    expected = 0.0 if a == 0 or b == 0 else float(stats.hmean([a, b]))
    assert harmonic_mean(a, b) == pytest.approx(expected, abs=1e-12)


@SETTINGS
@given(n=st.integers(2, 12), e=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_spread_measures_equal_their_definitions(n, e, seed):
    x = np.random.default_rng(seed).normal(size=(n, e))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    singular = np.sqrt(np.linalg.eigvalsh(x @ x.T).clip(0))
    share = singular / singular.sum()
    assert effective_rank(x) == pytest.approx(math.exp(stats.entropy(share)), rel=1e-5)
    values, axes = np.linalg.eigh(x.T @ x)
    if np.diff(values).min() > 1e-3:  # else the axes are not determined
        along = [
            sum(math.exp(sign * (row @ axis)) for row in x) for axis in axes.T for sign in (1, -1)
        ]
        assert isotropy(x) == pytest.approx(min(along) / max(along), rel=1e-5)
    assert math.exp(-2) <= isotropy(x) <= 1
    distances = [((row - x.mean(0)) ** 2).sum() for row in x]
    assert spread(x) == pytest.approx(math.sqrt(np.mean(distances)), abs=1e-9)
    assert 0 <= spread(x) <= 1 + 1e-12


def test_spread_measures_tell_a_point_a_line_and_a_sphere_apart():
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(5000, 8))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    point, line = np.tile(sphere[:1], (100, 1)), np.outer(rng.choice([-1, 1], 100), sphere[0])
    cone = sphere + 4 * sphere[0]
    cone /= np.linalg.norm(cone, axis=1, keepdims=True)
    assert effective_rank(point) == pytest.approx(1, abs=1e-3)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(sphere) > 7.99
    assert isotropy(sphere) > 0.97 > 0.3 > isotropy(cone)
    assert spread(point) == pytest.approx(0, abs=1e-7)
    assert spread(cone) < 0.3 < 0.99 < spread(sphere)


def test_what_does_not_correlate_is_named():
    with pytest.raises(InputError, match="two finite lists"):
        correlation(np.arange(3), np.arange(4))
    with pytest.raises(InputError, match="two finite lists"):
        correlation(np.array([1.0, np.nan]), np.arange(2))
    assert all(map(math.isnan, correlation(np.arange(3), np.arange(3))[1:]))


def test_a_library_of_the_lab_that_is_missing_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        InputError, match=r"needs scipy; install it with: pip install 'diptych\[lab\]'"
    ):
        correlation(np.arange(5), np.arange(5))


def test_covariance_rank_counts_directions_that_vary():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    inside = (
        base @ torch.randn(3, 8, generator=generator, dtype=torch.float64) + 5.0
    )  # a shifted plane
    assert covariance_rank(inside) == 3 == np.linalg.matrix_rank(np.cov(inside.numpy().T))
    assert covariance_rank(inside.float() + 0) == 3  # rounding is no direction
    assert covariance_rank(torch.randn(5, 8, generator=generator)) == 4
    assert covariance_rank(torch.ones(1, 8)) == 0


def test_wasserstein_uniformity_is_the_distance_of_two_gaussians():
    """Against scipy's matrix square root: W² = |μ|² + tr(Σ + Q - 2 (Q^½ Σ Q^½)^½)."""
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(
        torch.randn(50, 4, generator=generator, dtype=torch.float64) + 0.3, dim=1
    ).numpy()
    target = np.eye(4) / 4
    covariance = np.cov(x.T, bias=True)
    between = sqrtm(sqrtm(target) @ covariance @ sqrtm(target))
    expected = math.sqrt((x.mean(0) ** 2).sum() + np.trace(covariance + target - 2 * between).real)
    assert wasserstein_uniformity(x) == pytest.approx(expected, abs=1e-7)
    collapsed = np.tile([[1.0, 0, 0, 0]], (9, 1))
    assert wasserstein_uniformity(collapsed) == pytest.approx(math.sqrt(2))
    flat = np.concatenate([np.eye(4)[:2], -np.eye(4)[:2]])  # half of the directions
    assert 0 < wasserstein_uniformity(flat) < wasserstein_uniformity(collapsed)


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
    assert metrics.ranks(queries, gallery, positives, tile=tile).tolist() == wanted
    found = metrics.similarities(torch.from_numpy(queries), torch.from_numpy(gallery))
    np.testing.assert_allclose(found.numpy(), scores)
    turned = metrics.similarities(torch.from_numpy(gallery), torch.from_numpy(queries))
    np.testing.assert_allclose(turned.numpy(), scores.T)
    back = rng.integers(q, size=g)
    wanted = [
        1 + sum(scores[i, j] >= scores[p, j] for i in range(q) if i != p)
        for j, p in enumerate(back)
    ]
    assert metrics.ranks(gallery, queries, back, tile=tile).tolist() == wanted
    with pytest.raises(InputError, match="two or three dimensions"):
        metrics.ranks(queries, gallery[None], positives)


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_the_area_under_the_curve_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 20) / 5
    positive = np.arange(20) < rng.integers(1, 20)
    assert metrics.auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert math.isnan(metrics.auroc(scores, np.ones(20, bool)))
