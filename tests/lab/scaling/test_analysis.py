"""Held-out runs, resamples, crossings."""

import numpy as np
import pytest

from diptych.errors import InputError
from diptych.lab.scaling import (
    Bootstrap,
    Fit,
    best_samples,
    bootstrap,
    crossings,
    fit_law,
    held_out,
)
from diptych.lab.scaling.analysis import crossing_interval

ALL = Fit(frontier="all")


def grid(a=-0.25, floor=0.2, seed=0, count=60):
    """Runs with a law as their lower edge, most of them above it."""
    draw = np.random.default_rng(seed)
    c = np.geomspace(1e6, 1e10, count)
    return c, (40 * (c + 1e7) ** a + floor) * (1 + draw.exponential(0.05, count))


def test_the_crossing_of_two_laws():
    c = np.geomspace(1e6, 1e10, 9)
    first = fit_law(c, 4 * c**-0.09 + 0.3)
    second = fit_law(c, 7 * c**-0.12 + 0.3)
    (found,) = crossings(first, second, 1e6, 1e10)
    assert found.compute == pytest.approx((7 / 4) ** (1 / 0.03), rel=1e-5)  # 1.26261e8
    assert found.separate
    assert crossings(first, second, 1e6, 1e8) == []


def test_the_crossing_of_resamples_is_the_one_nearest_to_that_of_the_laws():
    """A law that is flat below 1e7 meets a power law on both sides of 3.6e6, where slopes are equal."""
    c = np.geomspace(1e6, 1e10, 12)
    bent = Bootstrap((fit_law(c, 92.4 * (c + 1e7) ** -0.3),), 0)
    line = Bootstrap((fit_law(c, 2.2 * c**-0.08, "power"),), 0)
    early, late = crossings(bent.laws[0], line.laws[0], 1e6, 1e10)
    assert early.compute < 3.6e6 < late.compute
    for near, place in ((None, early), (1e6, early), (1e10, late)):
        low, high, share = crossing_interval(bent, line, 1e6, 1e10, near=near)
        assert (low, high) == pytest.approx((place.compute, place.compute))
        assert share == 1


def test_a_crossing_inside_of_the_intervals_is_not_certain():
    c = np.geomspace(1e6, 1e10, 12)
    noise = np.random.default_rng(1).normal(0, 0.05, (2, 12))
    first = fit_law(c, 4 * c**-0.09 * np.exp(noise[0]), "power")
    second = fit_law(c, 4.4 * c**-0.095 * np.exp(noise[1]), "power")
    assert not any(found.separate for found in crossings(first, second, 1e4, 1e12))


def test_what_a_law_predicts_of_larger_runs():
    c = np.geomspace(1e6, 1e10, 12)
    y = 40 * (c + 1e7) ** -0.25 + 0.2
    good = held_out(c, y, ALL, 3e8)
    poor = held_out(c, y, Fit(frontier="all", form="power"), 3e8)
    assert (good.fitted, good.held_out) == (7, 5)
    assert good.rmse < 1e-6 < 0.02 < poor.rmse
    on = c <= 3e8
    line = np.polyfit(np.log(c[on]), np.log(y[on]), 1)
    left = np.exp(np.polyval(line, np.log(c[~on]))) - y[~on]
    assert poor.rmse == pytest.approx(np.sqrt(np.mean(left**2)))
    assert poor.relative == pytest.approx(np.mean(np.abs(left) / y[~on]))
    low, high = fit_law(c, y, "power", c_max=3e8).interval(c[~on])
    assert poor.covered == np.mean((low <= y[~on]) & (y[~on] <= high))
    with pytest.raises(InputError, match="no run of the frontier has more compute than 1e\\+11"):
        held_out(c, y, ALL, 1e11)


def test_resamples_take_the_frontier_anew():
    c, y = grid()
    told = []
    found = bootstrap(c, y, ALL, times=20, seed=3, report=lambda *at: told.append(at))
    assert told == [(done, 20) for done in range(1, 21)]
    assert len(found.laws) + found.failed == 20
    assert len({law.count for law in found.laws}) > 1
    low, high = found.interval(np.array([1e8]))
    assert low < fit_law(c[ALL.points(c, y)], y[ALL.points(c, y)])(1e8) < high
    again = bootstrap(c, y, ALL, times=20, seed=3)
    assert again.ends("a") == found.ends("a")
    assert bootstrap(c, y, ALL, times=20, seed=4).ends("a") != found.ends("a")


def test_resamples_of_too_few_runs_are_refused():
    c = np.geomspace(1e6, 1e10, 6)
    with pytest.raises(InputError, match="of 10 resamples of the runs have too few points"):
        bootstrap(c, 4 * c**-0.1, ALL, times=10)


def test_the_best_number_of_samples_is_a_power_of_compute():
    c, y = grid(count=30)
    law = best_samples(c, y, 3 * c**0.7)
    assert law.parameters["a"] == pytest.approx(0.7)
    assert law.parameters["A"] == pytest.approx(3)
