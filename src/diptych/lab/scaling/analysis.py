"""What is asked of fitted laws: whether they predict larger runs, how certain they are, where two of
them cross, and how many samples a compute budget wants.

Dimensions: R runs, n points of the frontier, k values of compute.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.errors import InputError
from diptych.lab.scaling.frontier import Kind, frontier
from diptych.lab.scaling.laws import Form, Law, Residuals, fit_law
from diptych.rng import generator

_GRID = 2000
_BOOTSTRAP_STARTS = 2


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How laws are fitted to runs: the frontier, the form, and the compute up to which points are
    fitted."""

    frontier: Kind = "bins"
    edges: int | None = None
    alpha: float = 0.0
    form: Form = "saturating"
    residuals: Residuals = "error"
    c_max: float | None = None

    def points(self, compute: np.ndarray, error: np.ndarray) -> np.ndarray:
        """The indices of the runs on the frontier."""
        return frontier(compute, error, self.frontier, edges=self.edges, alpha=self.alpha)

    def law(self, compute: np.ndarray, error: np.ndarray, *, starts: int = 8) -> Law:
        """The law of the runs' frontier: compute (R,), error (R,)."""
        on = self.points(compute, error)
        return fit_law(
            compute[on],
            error[on],
            self.form,
            c_max=self.c_max,
            residuals=self.residuals,
            starts=starts,
        )


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How a law that is fitted up to `c_max` predicts the frontier above it: the root mean square
    of the errors, their mean share of what is predicted, and the share of points inside the law's
    95 % interval."""

    c_max: float
    fitted: int
    held_out: int
    rmse: float
    relative: float
    covered: float


def held_out(compute: np.ndarray, error: np.ndarray, fit: Fit, c_max: float) -> HeldOut:
    """Fit the frontier's points up to `c_max` and predict the others. Raises InputError if there
    are none."""
    on = fit.points(compute, error)
    c = compute[on]
    y = error[on]
    above = c > c_max
    if not above.any():
        raise InputError(f"no run of the frontier has more compute than {c_max:g}; lower it")
    law = fit_law(c, y, fit.form, c_max=c_max, residuals=fit.residuals)
    predicted = law(c[above])
    low, high = law.interval(c[above])
    left = predicted - y[above]
    return HeldOut(
        c_max=c_max,
        fitted=int((~above).sum()),
        held_out=int(above.sum()),
        rmse=float(np.sqrt(np.mean(left**2))),
        relative=float(np.mean(np.abs(left) / y[above])),
        covered=float(np.mean((low <= y[above]) & (y[above] <= high))),
    )


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Laws of resampled runs, and the number of resamples whose frontier had too few points."""

    laws: tuple[Law, ...]
    failed: int

    def interval(self, compute: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Percentiles of the error: (k,) -> (k,), (k,)."""
        return _percentiles(np.stack([law(compute) for law in self.laws]), level)

    def ends(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Percentiles of a parameter."""
        low, high = _percentiles(np.array([law.parameters[name] for law in self.laws]), level)
        return float(low), float(high)


def bootstrap(
    compute: np.ndarray,
    error: np.ndarray,
    fit: Fit,
    *,
    times: int = 200,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Bootstrap:
    """Fit laws to `times` resamples of the runs, with replacement. The frontier is taken anew of
    each, so that the spread includes its choice.

    `report(done, total)` is called after each. Raises InputError if more than half of the
    resamples have too few points.
    """
    draw = generator(seed, "bootstrap of runs")
    laws = []
    for done in range(1, times + 1):
        rows = draw.integers(0, len(compute), len(compute))
        with suppress(InputError):  # counted below
            laws.append(fit.law(compute[rows], error[rows], starts=_BOOTSTRAP_STARTS))
        if report is not None:
            report(done, times)
    if 2 * len(laws) < times:
        raise InputError(
            f"{times - len(laws)} of {times} resamples of the runs have too few points for a law; add runs, or fit "
            "a form with fewer parameters"
        )
    return Bootstrap(tuple(laws), times - len(laws))


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A compute at which two laws are equal. It is `separate` if their intervals are apart somewhere
    below and somewhere above it."""

    compute: float
    separate: bool


def crossings(
    first: Law, second: Law, low: float, high: float, *, level: float = 0.95
) -> list[Crossing]:
    """The compute values from `low` to `high` at which two laws cross, ascending.

    >>> c = np.geomspace(1e6, 1e10, 9)
    >>> laws = (fit_law(c, 4 * c**-0.09, "power"), fit_law(c, 7 * c**-0.12, "power"))
    >>> [f"{found.compute:.6g}" for found in crossings(*laws, 1e6, 1e10)]
    ['1.26261e+08']
    """
    from scipy.optimize import brentq

    grid = np.geomspace(low, high, _GRID)

    def apart(log_c: float) -> float:
        return float(first(np.exp(log_c)) - second(np.exp(log_c)))

    a_low, a_high = first.interval(grid, level)
    b_low, b_high = second.interval(grid, level)
    clear = (a_high < b_low) | (b_high < a_low)
    sign = np.sign(first(grid) - second(grid))
    found = []
    for i in np.flatnonzero(sign[:-1] * sign[1:] < 0):
        root: Any = brentq(apart, np.log(grid[i]), np.log(grid[i + 1]), xtol=1e-13)
        both = bool(clear[: i + 1].any() and clear[i + 1 :].any())
        found.append(Crossing(compute=float(np.exp(root)), separate=both))
    return found


def crossing_interval(
    first: Bootstrap,
    second: Bootstrap,
    low: float,
    high: float,
    *,
    near: float | None = None,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Percentiles of a crossing of resampled laws, pair by pair, and the share of pairs that cross: of
    the crossings of a pair the one nearest to `near`, by default the first."""
    found = []
    for pair in zip(first.laws, second.laws, strict=False):
        crossed = [each.compute for each in crossings(*pair, low, high, level=level)]
        if crossed:
            found.append(min(crossed, key=lambda c: abs(np.log(c / near)) if near else c))
    pairs = min(len(first.laws), len(second.laws))
    if not found:
        return np.nan, np.nan, 0.0
    ends = _percentiles(np.log(np.array(found)), level)
    return float(np.exp(ends[0])), float(np.exp(ends[1])), len(found) / pairs


def best_samples(compute: np.ndarray, error: np.ndarray, samples: np.ndarray) -> Law:
    """The power law of samples seen over compute, along the runs that are strictly better than all
    with less compute."""
    on = frontier(compute, error, "all")
    return fit_law(compute[on], samples[on], "power")


def _percentiles(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)], axis=0)
    return low, high


def thresholds(compute: np.ndarray, shares: Sequence[float]) -> list[float]:
    """The compute of the points that end the given shares of them, from the cheapest."""
    ordered = np.sort(compute)
    return [float(ordered[max(round(share * len(ordered)) - 1, 0)]) for share in shares]
