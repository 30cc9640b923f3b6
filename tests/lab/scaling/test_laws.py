"""The forms, the solver and the intervals."""

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import t as student

from diptych.errors import InputError
from diptych.lab.scaling.laws import NAMES, fit_law

TRUE = {"A": 5.0, "B": 50.0, "a": -0.1, "E": 0.05}


def truth(c):
    return 5 * (c + 50) ** -0.1 + 0.05


def noisy(count=14, seed=0, sd=0.005):
    """Points of the law with a floor that shows."""
    c = np.geomspace(1e6, 1e10, count)
    return c, 40 * (c + 1e7) ** -0.25 + 0.2 + np.random.default_rng(seed).normal(0, sd, count)


def test_the_law_at_three_places():
    assert truth(np.array([1e6, 1e9, 1e12])) == pytest.approx(
        [1.305937, 0.679463, 0.365479], abs=1e-6
    )


@pytest.mark.parametrize("count", [9, 12, 20])
@pytest.mark.parametrize("residuals", ["error", "log"])
def test_exact_points_give_the_law_back(count, residuals):
    c = np.geomspace(1e6, 1e10, count)
    law = fit_law(c, truth(c), residuals=residuals)
    for name, within in (("A", 1e-6), ("B", 0.01), ("a", 1e-6), ("E", 1e-6)):
        assert law.parameters[name] == pytest.approx(TRUE[name], abs=within)
    assert law(1e12) == pytest.approx(truth(1e12), abs=1e-8)


def test_no_other_start_ends_lower():
    """scipy's curve_fit, from starts of the published grid."""
    c, y = noisy()
    ours = fit_law(c, y).mse
    unit = c[0]
    ends = []
    for scale in (0.0, 5.0, 50.0):
        for offset in (0.0, 5.0, 50.0):
            for exponent in (-0.2, -0.05):
                found, _ = curve_fit(
                    lambda x, A, B, a, E: A * (x + B) ** a + E,
                    c / unit,
                    y,
                    p0=(scale, offset, exponent, 0.0005),
                    bounds=((0, 0, -np.inf, 0), (np.inf, np.inf, 0, np.inf)),
                    maxfev=100_000,
                )
                A, B, a, E = found
                ends.append(np.mean((A * (c / unit + B) ** a + E - y) ** 2))
    assert ours <= min(ends) * (1 + 1e-9)


def test_the_interval_is_that_of_the_delta_method():
    """Slowly: derivatives by differences, in units of the data."""
    c, y = noisy()
    law = fit_law(c, y)
    unit = c[0]

    def value(p, x):
        return p[0] * (x / unit + p[1]) ** p[2] + p[3]

    best = np.array([law.parameters["A"] * unit ** law.parameters["a"], law.parameters["B"] / unit,
                     law.parameters["a"], law.parameters["E"]])  # fmt: skip

    def slope(x):
        rows = []
        for at in range(4):
            step = np.zeros(4)
            step[at] = 1e-5 * max(abs(best[at]), 1e-3)
            rows.append((value(best + step, x) - value(best - step, x)) / (2 * step[at]))
        return np.stack(rows, -1)

    J = slope(c)
    sigma = np.sum((value(best, c) - y) ** 2) / (len(c) - 4) * np.linalg.inv(J.T @ J)
    for x in (1e7, 1e12):
        g = slope(np.array([x]))[0]
        half = student.ppf(0.975, len(c) - 4) * math.sqrt(g @ sigma @ g)
        low, high = law.interval(x)
        assert (high - low) / 2 == pytest.approx(half, rel=1e-3)
        assert (high + low) / 2 == pytest.approx(float(law(x)))


def test_the_interval_covers_as_often_as_it_says():
    """The law at a place between the points, over 200 draws: within 90 to 99 %."""
    inside = 0
    for seed in range(200):
        law = fit_law(*noisy(seed=seed), starts=1)
        low, high = law.interval(1e8)
        inside += low <= 40 * (1e8 + 1e7) ** -0.25 + 0.2 <= high
    assert 180 <= inside <= 198


def test_a_power_law_is_a_line_on_logarithms():
    c, y = noisy()
    law = fit_law(c, y, "power")
    slope, height = np.polyfit(np.log(c), np.log(y), 1)
    assert law.parameters["a"] == pytest.approx(slope)
    assert law.parameters["A"] == pytest.approx(math.exp(height))
    assert (law.parameters["B"], law.parameters["E"]) == (0, 0)
    low, high = law.interval(1e8)
    assert math.sqrt(low * high) == pytest.approx(float(law(1e8)))


def test_no_floor_has_none():
    law = fit_law(*noisy(), "no_floor")
    assert law.parameters["E"] == 0
    assert law.mse > fit_law(*noisy()).mse


def test_points_above_the_limit_are_not_fitted():
    c, y = noisy()
    wrong = np.where(c > 1e9, 0.9, y)
    assert fit_law(c, wrong, c_max=1e9).parameters == fit_law(c[c <= 1e9], y[c <= 1e9]).parameters


def test_the_unit_of_compute_does_not_matter():
    c, y = noisy()
    law, other = fit_law(c, y), fit_law(c * 1e9, y)
    assert other(1e20) == pytest.approx(float(law(1e11)), rel=1e-6)
    assert other.parameters["B"] == pytest.approx(1e9 * law.parameters["B"], rel=1e-3)
    for name in NAMES:
        low, high = law.ends(name)
        assert low <= law.parameters[name] <= high


def test_bad_input():
    c, y = noisy()
    with pytest.raises(
        InputError, match="4 parameters and needs more points than that; there are 3 of at most"
    ):
        fit_law(c, y, c_max=float(c[2]))
    with pytest.raises(InputError, match="errors above 0"):
        fit_law(c, np.where(c > 1e9, 0.0, y))
    with pytest.raises(InputError, match="compute above 0"):
        fit_law(c - c[0], y)
    with pytest.raises(InputError, match="form of a law"):
        fit_law(c, y, "line")
