"""Metrics of distributions against their definitions and scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diptych.errors import InputError
from diptych.metrics import (
    correlation,
    covariance_rank,
    effective_rank,
    isotropy,
    spread,
    wasserstein_uniformity,
)

SETTINGS = settings(max_examples=60, deadline=None)


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
