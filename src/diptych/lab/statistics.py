"""The statistics of claims: paired t-tests with intervals, of many cases at once; Holm's procedure;
power.

Dimensions: n seeds; … cases, as where a rule is simulated.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from diptych.errors import InputError
from diptych.lab.claim import LOOKS, Claim, Expect

POWER = 0.8


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its interval."""

    low: float
    mean: float
    high: float

    @property
    def half(self) -> float:
        """Half its width."""
        return (self.high - self.low) / 2


def standard_error(
    d: np.ndarray, *, items: float = 0.0, one_test_set: bool = False, exact: bool = False
) -> np.ndarray:
    """The standard error of the mean of d (…, n) -> (…); NaN for equal values that are not exact
    and have no items.

    >>> print(standard_error(np.array([1.0, 2.0, 3.0])).round(4))
    0.5774
    >>> print(standard_error(np.ones(3)), standard_error(np.ones(3), exact=True))
    nan 0.0
    """
    n = d.shape[-1]
    spread = d.var(-1, ddof=1) / n
    spread = np.where(np.ptp(d, axis=-1) == 0, 0.0, spread)  # no rounding where all are equal
    squared = spread + items if one_test_set else np.maximum(spread, items)
    if exact:
        return np.sqrt(squared)[()]
    return np.sqrt(np.where(squared == 0, np.nan, squared))[()]


def p_values(
    kind: str, bound: float, d: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The p of "it holds" and of "it fails", against the opposite: d (…, n), error (…) -> (…).

    NaN where the error is.
    """
    mean = d.mean(-1)
    above = {"better": [0.0], "not_worse": [-bound], "equal": [-bound], "at_most": []}[kind]
    below = {"better": [], "not_worse": [], "equal": [bound], "at_most": [bound]}[kind]
    degrees = d.shape[-1] - 1
    strict = kind in ("better", "not_worse")  # which an exact difference on the edge is not
    right = [_tail(mean - edge, error, degrees, strict) for edge in above]
    right += [_tail(edge - mean, error, degrees, strict) for edge in below]
    wrong = [_tail(edge - mean, error, degrees, True) for edge in above]
    wrong += [_tail(mean - edge, error, degrees, True) for edge in below]
    # Two edges: inside both, or outside one of the two, of which a mean can only be outside one.
    return np.max(right, axis=0), np.min(wrong, axis=0)


def _tail(distance: np.ndarray, error: np.ndarray, degrees: int, strict: bool) -> np.ndarray:
    """P(T > distance / error); for exact quantities 0 on the right side of the edge, else 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = student().sf(distance / error, degrees)
    exact = np.where(distance > 0 if strict else distance >= 0, 0.0, 1.0)
    return np.where(np.asarray(error) == 0, exact, p)


def headline_outcomes(
    parts: Sequence[tuple[Expect, np.ndarray, np.ndarray]], level: float, delta: float
) -> np.ndarray:
    """The headline's outcome at one look, for all cases: (expectation, d (…, n), error (…)) each."""
    tests = [p_values(expect.kind, expect.bound, d, error) for expect, d, error in parts]
    holds = np.all([p <= level for p, _ in tests], axis=0)
    fails = np.any([p <= level / len(parts) for _, p in tests], axis=0)
    null = np.zeros_like(holds)
    expect, d, error = parts[0]
    if len(parts) == 1 and expect.kind == "better":
        null = p_values("equal", delta, d, error)[0] <= level
    return np.select([null, holds, fails], ["null", "holds", "fails"], "undecided")


def mechanism_outcomes(rest: Sequence[tuple[np.ndarray, np.ndarray]], level: float) -> np.ndarray:
    """Whether ablations lose half of the gain, for all cases: (d / 2 - an ablation's gain (…, n),
    error (…)) each."""
    tests = [p_values("better", 0.0, half, error) for half, error in rest]
    shown = np.all([p <= level for p, _ in tests], axis=0)
    denied = np.any([p <= level / len(rest) for _, p in tests], axis=0)
    return np.select([shown, denied], ["shown", "not shown"], "undecided")


def holm(p: Sequence[float], level: float) -> list[bool]:
    """Which of several hypotheses are rejected together at a level (Holm 1979); NaN never is.

    >>> holm([0.01, 0.04, 0.03], 0.05)
    [True, False, False]
    """
    order = sorted(range(len(p)), key=lambda at: math.inf if math.isnan(p[at]) else p[at])
    rejected = [False] * len(p)
    for rank, at in enumerate(order):
        if not p[at] <= level / (len(p) - rank):
            break
        rejected[at] = True
    return rejected


def interval(
    values: Sequence[float],
    level: float = 0.025,
    *,
    error: float | None = None,
) -> Interval:
    """The t-interval of a mean, `level` on each side; `error` in place of the values' own standard
    error. Equal values, and one value alone, have one of no width.

    >>> interval([1.0, 2.0, 3.0])
    Interval(low=-0.484..., mean=2.0, high=4.484...)
    """
    d = np.asarray(values, float)
    mean = mean_of(values)
    if error is None and len(values) == 1:
        return Interval(mean, mean, mean)
    if error is None:
        error = float(standard_error(d, exact=True))
    half = float(student().isf(level, len(values) - 1)) * error
    return Interval(mean - half, mean, mean + half)


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; of equal values the value itself, without rounding."""
    return values[0] if max(values) == min(values) else math.fsum(values) / len(values)


# ---- power


def smallest_effect(error: float, n: int, level: float) -> float:
    """The effect that n seeds of this standard error find with a power of 80 %.

    >>> round(smallest_effect(1 / 5**0.5, 5, 0.025), 2)  # 1.68 standard deviations
    1.68
    """
    return _detectable(n, level) * error


@cache
def _detectable(n: int, level: float) -> float:
    """The effect in standard errors that n seeds find with a power of 80 %."""
    edge = float(student().isf(level, n - 1))
    low = 0.0
    high = 100.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        found = float(_noncentral().sf(edge, n - 1, middle))
        low, high = (low, middle) if found >= POWER else (middle, high)
    return high


def _simulated(claim: Claim, cases: int) -> Iterator[tuple[int, np.ndarray]]:
    """The number of seeds of each look, and the outcomes of all cases at it ("" for those decided
    earlier), where the tuning seeds showed the truth of the headline's first expectation; drawn at
    random, always alike."""
    assert claim.tuned is not None
    expect = claim.headline[0]
    delta = claim.delta_of(expect.metric)
    rng = np.random.default_rng(0)
    d = rng.normal(claim.tuned.effect, claim.tuned.sd, (cases, claim.looks[-1]))
    alive = np.ones(cases, bool)
    for look in claim.looks:
        part = d[:, :look]
        parts = [(expect, part, standard_error(part))]
        outcomes = np.where(alive, headline_outcomes(parts, LOOKS[claim.looks], delta), "")
        yield look, outcomes
        alive = outcomes == "undecided"


def power(claim: Claim, cases: int = 20_000) -> list[tuple[int, float]]:
    """How probably the headline holds by each look, (number of seeds, probability) each, were the
    tuning seeds the truth."""
    held = 0
    found = []
    for look, outcomes in _simulated(claim, cases):
        held += int((outcomes == "holds").sum())
        found.append((look, held / cases))
    return found


def expected_seeds(claim: Claim, cases: int = 20_000) -> float:
    """How many seeds the headline takes on average until it is decided, or the last look is done."""
    taken = np.full(cases, claim.looks[-1])
    for look, outcomes in _simulated(claim, cases):
        taken[(outcomes != "") & (outcomes != "undecided")] = look
    return float(taken.mean())


def student() -> Any:
    """Return scipy's t distribution. Raises InputError where scipy is missing."""
    return _scipy("t")


def _noncentral() -> Any:
    return _scipy("nct")


def _scipy(name: str) -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise InputError(
            "a verdict needs scipy; install it with: pip install 'diptych[lab]'"
        ) from None
    return getattr(stats, name)


def ready() -> None:
    """InputError where what the rule needs is not installed: raised before the runs, not after
    them."""
    student()
