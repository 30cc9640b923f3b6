"""The verdict on a claim, as code: 95 % t-intervals of paired seed differences against the
expectations.

With d_s the difference of two arms under seed s, n seeds and q the 97.5 % quantile of Student's t
with n - 1 degrees:

    interval = mean(d) ± q std(d) / sqrt(n)

    better          holds above 0 if each breaking ablation loses at least half the gain; fails below 0, or if an
                    ablation keeps more
    not_worse(m)    holds if the lower end is above -m, fails if the upper end is below -m
    equal(m)        holds inside ±m, fails wholly outside
    at_most(x)      of the arm itself: holds if the upper end is at most x, fails if the lower end is above it

Anything else is a tie. A claim fails if any expectation fails, holds if all hold, else ties; it is
`untrained`, whatever else was measured, if an arm that should learn is under the floor on average.
What an ablation keeps is judged on means, and only if the interval shows that there is a gain to
lose.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from diptych.errors import InputError, unknown
from diptych.lab.claim import Claim, Expect, Floor

Outcome = Literal["holds", "tie", "fails"]
Numbers = Mapping[int, Mapping[str, Mapping[str, float]]]
"""metrics[seed][arm][metric]"""

LEVEL = 0.95
KEPT = 0.5  # the share of the gain that a breaking ablation may keep


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its interval."""

    low: float
    mean: float
    high: float

    @property
    def half(self) -> float:
        """Half its width: the smallest effect that it could have distinguished from none."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What an ablation keeps of the gain: its own gain, and its share of the gain if there is
    one."""

    arm: str
    gain: Interval
    kept: float | None

    @property
    def breaks(self) -> bool:
        """Whether it loses at least half."""
        return self.kept is not None and self.kept <= KEPT


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An expectation and its outcome. `values` are the numbers behind the interval, one for each
    seed: differences, signed so that larger is better, or for at_most the metric itself."""

    expect: Expect
    outcome: Outcome
    values: tuple[float, ...]
    interval: Interval
    ablations: tuple[Ablation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict, what it follows from, and each learning arm's mean of the floor's metric."""

    verdict: Literal["holds", "tie", "fails", "untrained"]
    judged: tuple[Judged, ...]
    floor: Floor
    reached: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            "verdict": self.verdict,
            "expect": [
                {
                    "says": str(item.expect),
                    **{
                        name: value
                        for name, value in asdict(item.expect).items()
                        if name != "breaking"
                    },
                    "outcome": item.outcome,
                    "mean": item.interval.mean,
                    "interval": [item.interval.low, item.interval.high],
                    "smallest_effect": item.interval.half,
                    "values": list(item.values),
                    "ablations": [
                        {
                            "arm": ablation.arm,
                            "kept": ablation.kept,
                            "breaks": ablation.breaks,
                            "mean": ablation.gain.mean,
                            "interval": [ablation.gain.low, ablation.gain.high],
                        }
                        for ablation in item.ablations
                    ],
                }
                for item in self.judged
            ],
            "floor": {
                "metric": self.floor.metric,
                "chance": self.floor.chance,
                "value": self.floor.value,
                "reached": dict(self.reached),
            },
        }


def judge(claim: Claim, numbers: Numbers) -> Verdict:
    """Return the verdict on a claim from the metrics of all its arms under at least two seeds.

    Raises InputError if an arm did not return a metric that is judged.
    """
    assert len(numbers) > 1, "an interval needs two seeds"
    judged = tuple(_judge(expect, numbers) for expect in claim.expect)
    reached = {arm: _mean(_column(numbers, arm, claim.floor.metric)) for arm in claim.learning}
    outcomes = {item.outcome for item in judged}
    if any(value < claim.floor.value for value in reached.values()):
        verdict = "untrained"
    elif "fails" in outcomes:
        verdict = "fails"
    else:
        verdict = "holds" if outcomes == {"holds"} else "tie"
    return Verdict(verdict=verdict, judged=judged, floor=claim.floor, reached=reached)


def interval(values: Sequence[float]) -> Interval:
    """Return the 95 % t-interval of a mean; equal values have an interval of zero width.

    >>> interval([1.0, 2.0, 3.0])
    Interval(low=-0.484..., mean=2.0, high=4.484...)
    """
    n = len(values)
    mean = _mean(values)
    if max(values) == min(values):
        return Interval(mean, mean, mean)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _quantile(n - 1) * spread / math.sqrt(n)
    return Interval(mean - half, mean, mean + half)


@cache
def _quantile(degrees: int) -> float:
    return float(_student().ppf((1 + LEVEL) / 2, degrees))


def _student() -> Any:
    try:
        from scipy.stats import t
    except ImportError:
        raise InputError(
            "a verdict needs scipy; install it with: pip install 'diptych[lab]'"
        ) from None
    return t


def ready() -> None:
    """Raise InputError if scipy is missing: before the runs, not after them."""
    _student()


def _mean(values: Sequence[float]) -> float:
    return values[0] if max(values) == min(values) else math.fsum(values) / len(values)


def _column(numbers: Numbers, arm: str, metric: str) -> tuple[float, ...]:
    """Return a metric of an arm, one number for each seed."""
    for seed, arms in numbers.items():
        if metric not in arms[arm]:
            raise unknown(f"metric of arm {arm!r}, seed {seed}", metric, arms[arm])
    return tuple(arms[arm][metric] for arms in numbers.values())


def _differences(expect: Expect, numbers: Numbers, arm: str) -> tuple[float, ...]:
    """Return `arm` minus the arm that it is compared with, seed by seed; negated if smaller is
    better."""
    assert expect.other is not None
    sign = 1.0 if expect.higher else -1.0
    pairs = zip(
        _column(numbers, arm, expect.metric),
        _column(numbers, expect.other, expect.metric),
        strict=True,
    )
    return tuple(sign * (one - other) for one, other in pairs)


def _judge(expect: Expect, numbers: Numbers) -> Judged:
    if expect.kind == "at_most":
        values = _column(numbers, expect.arm, expect.metric)
    else:
        values = _differences(expect, numbers, expect.arm)
    found = interval(values)
    ablations = tuple(_ablation(expect, numbers, arm, found.mean) for arm in expect.breaking)
    outcome = RULES[expect.kind](expect, found, ablations)
    return Judged(
        expect=expect, outcome=outcome, values=values, interval=found, ablations=ablations
    )


def _ablation(expect: Expect, numbers: Numbers, arm: str, gain: float) -> Ablation:
    own = interval(_differences(expect, numbers, arm))
    return Ablation(arm=arm, gain=own, kept=own.mean / gain if gain > 0 else None)


def _better(expect: Expect, found: Interval, ablations: Sequence[Ablation]) -> Outcome:
    if found.high < 0:
        return "fails"
    if found.low <= 0:
        return "tie"
    return "holds" if all(ablation.breaks for ablation in ablations) else "fails"


def _not_worse(expect: Expect, found: Interval, ablations: Sequence[Ablation]) -> Outcome:
    if found.low > -expect.bound:
        return "holds"
    return "fails" if found.high < -expect.bound else "tie"


def _equal(expect: Expect, found: Interval, ablations: Sequence[Ablation]) -> Outcome:
    if -expect.bound <= found.low and found.high <= expect.bound:
        return "holds"
    return "fails" if found.low > expect.bound or found.high < -expect.bound else "tie"


def _at_most(expect: Expect, found: Interval, ablations: Sequence[Ablation]) -> Outcome:
    if found.high <= expect.bound:
        return "holds"
    return "fails" if found.low > expect.bound else "tie"


RULES: Mapping[str, Callable[[Expect, Interval, Sequence[Ablation]], Outcome]] = {
    "better": _better,
    "not_worse": _not_worse,
    "equal": _equal,
    "at_most": _at_most,
}
