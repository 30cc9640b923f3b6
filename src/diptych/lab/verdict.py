"""The verdict on a claim, as code: t-tests of differences paired by seed, at looks that were declared.

With d_s the difference of two arms under seed s, signed so that more is better, n seeds and v the
squared standard error of the pooled differences of paired test items (0 where arms return none):

    se^2 = max(var(d) / n, v)            one test set for all seeds: var(d) / n + v
    I    = mean(d) ± t(1 - alpha, n - 1) se

alpha is that of the claim's looks (`claim.LOOKS`), one-sided, at each look. An expectation holds or
fails by where I lies:

    better          holds above 0                        fails below 0
    not_worse(m)    holds where its lower end is > -m    fails wholly below -m
    equal(m)        holds inside ±m                      fails wholly outside
    at_most(x)      holds where its upper end is <= x    fails wholly above x    (I of the metric itself)

The headline, at each look in this order: `null` (one `better` alone, I inside ±delta), `holds`
(each of its k expectations holds), `fails` (one fails at alpha / k). After the last look it is
`undecided`. Its mechanism is asked where it holds: `shown` where half the gain less an ablation's
gain is above 0 for every ablation, `not shown` where it is below 0 for one, at alpha / k. Checks are
judged at the last look that was run, by Holm's procedure at alpha, and decide nothing.

A verdict is `untrained` where a learning arm is under the floor in more than a tenth of the seeds, or
a difference of the headline moves at twice the steps. The next look is due if it, or a later one,
can bring the arm within the tenth.

Equal values have no interval unless the expectation is declared exact: nothing is concluded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from diptych.errors import unknown
from diptych.lab.claim import CONVERGENCE, LOOKS, Claim, Expect, Floor
from diptych.lab.statistics import (
    Interval,
    headline_outcomes,
    holm,
    interval,
    mean_of,
    mechanism_outcomes,
    p_values,
    smallest_effect,
    standard_error,
    student,
)

Outcome = Literal["holds", "fails", "null", "undecided"]
Shown = Literal["shown", "not shown", "undecided"]
Numbers = Mapping[int, Mapping[str, Mapping[str, float]]]
"""metrics[seed][arm][metric]"""
Pairs = Mapping[int, Mapping[str, tuple[int, float]]]
"""pairs[seed][expectation in words]: number and variance of the differences of paired items"""

SPARED = 0.1  # the share of seeds in which a learning arm may be under the floor
_MOST_SEEDS = 2000


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An expectation and its outcome.

    `values` are what the interval is of, a number a seed: differences, signed so that more is
    better, or for at_most the metric itself. `interval` is None for equal values that are not
    exact. `smallest_effect` is what would have been found with a power of 80 %.
    """

    expect: Expect
    outcome: Outcome
    values: tuple[float, ...]
    mean: float
    interval: Interval | None
    smallest_effect: float | None

    def to_dict(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "says": str(self.expect),
            **{name: value for name, value in asdict(self.expect).items() if name != "control"},
            "outcome": self.outcome,
            "mean": self.mean,
            "interval": None if self.interval is None else [self.interval.low, self.interval.high],
            "smallest_effect": self.smallest_effect,
            "values": list(self.values),
        }


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What an arm without the mechanism keeps of the gain: the share, and the interval of half the
    gain less its own."""

    arm: str
    kept: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Whether the ablations lose at least half of the gain, each of them, and after how many
    seeds."""

    outcome: Shown
    seeds: int
    ablations: tuple[Ablation, ...]


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far the difference of an expectation of the headline moved at twice the steps, a number a
    tuning seed."""

    says: str
    by: tuple[float, ...]
    delta: float

    @property
    def settled(self) -> bool:
        """Whether it did not move by more than delta in one direction on all seeds."""
        up = all(value > self.delta for value in self.by)
        down = all(value < -self.delta for value in self.by)
        return not (up or down)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict and what it follows from.

    `seeds` is the number of seeds after which the headline was decided, or those that ran;
    `open_look` the next look that is due, None where nothing is open or none is left; `would_decide`
    the number of seeds that would decide an undecided headline, as far as its numbers show.
    """

    verdict: Literal["holds", "null", "fails", "undecided", "untrained"]
    seeds: int
    level: float
    headline: tuple[Judged, ...]
    mechanism: Mechanism | None
    checks: tuple[Judged, ...]
    floor: Floor
    under: Mapping[str, int]
    reached: Mapping[str, float]
    moved: tuple[Moved, ...] = ()
    open_look: int | None = None
    would_decide: int | None = None
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As it is stored."""
        mechanism = None
        if self.mechanism is not None:
            mechanism = {
                "outcome": self.mechanism.outcome,
                "seeds": self.mechanism.seeds,
                "ablations": [
                    {
                        "arm": each.arm,
                        "kept": each.kept,
                        "interval": each.interval and [each.interval.low, each.interval.high],
                    }
                    for each in self.mechanism.ablations
                ],
            }
        return {
            "verdict": self.verdict,
            "decided_at": self.seeds,
            "level": self.level,
            "headline": [each.to_dict() for each in self.headline],
            "mechanism": mechanism,
            "checks": [each.to_dict() for each in self.checks],
            "floor": {
                "metric": self.floor.metric,
                "chance": self.floor.chance,
                "value": self.floor.value,
                "reached": dict(self.reached),
                "under": dict(self.under),
            },
            "moved": [{"says": each.says, "by": list(each.by)} for each in self.moved],
            "open_look": self.open_look,
            "would_decide": self.would_decide,
            "reasons": list(self.reasons),
        }


def judge(
    claim: Claim, numbers: Numbers, pairs: Pairs | None = None, twice: Numbers | None = None
) -> Verdict:
    """The verdict on a claim from the metrics of all its arms, after one of its looks.

    `twice` are the metrics of the headline's arms on the tuning seeds at their own steps and at
    twice as many: twice[seed][arm] and twice[-seed][arm]. Raises InputError where an arm did not
    return a metric that is judged.
    """
    level = LOOKS[claim.looks]
    seeds = list(numbers)
    looks = [look for look in claim.looks if look <= len(seeds)] or [len(seeds)]
    outcome: Outcome = "undecided"
    decided = looks[-1]
    for look in looks:
        outcome = _headline(claim, numbers, pairs, seeds[:look], level)
        if outcome != "undecided":
            decided = look
            break
    mechanism = None
    if outcome == "holds" and claim.mechanism:
        for look in (look for look in looks if look >= decided):
            mechanism = _mechanism(claim, numbers, seeds[:look], level)
            if mechanism.outcome != "undecided":
                break
    part = seeds[:decided]
    headline = tuple(_judged(claim, each, numbers, pairs, part, level) for each in claim.headline)
    checks = _checks(claim, numbers, pairs, seeds[: looks[-1]], level)
    under, reached = _floor(claim, numbers, seeds)
    moved = () if twice is None else _moved(claim, twice)
    short = {arm: count for arm, count in under.items() if count > SPARED * len(seeds)}
    reasons = [
        f"{arm} is under the floor of {claim.floor.value:.3g} in {count} of {len(seeds)} seeds"
        for arm, count in short.items()
    ]
    unsettled = [
        f"{each.says}: at twice the steps the difference moves by {', '.join(f'{v:+.3g}' for v in each.by)}"
        for each in moved
        if not each.settled
    ]
    reasons += unsettled
    still_open = outcome == "undecided" or (
        mechanism is not None and mechanism.outcome == "undecided"
    )
    later = [look for look in claim.looks if look > len(seeds)]
    # One seed of five is more than a tenth: what more seeds can mend is open.
    due = still_open if not short else any(max(short.values()) <= SPARED * look for look in later)
    return Verdict(
        verdict="untrained" if reasons else outcome,
        seeds=decided,
        level=level,
        headline=headline,
        mechanism=None if reasons else mechanism,
        checks=checks,
        floor=claim.floor,
        under=under,
        reached=reached,
        moved=moved,
        open_look=later[0] if due and later and not unsettled else None,
        would_decide=_would_decide(headline, level) if outcome == "undecided" else None,
        reasons=tuple(reasons),
    )


def _headline(
    claim: Claim, numbers: Numbers, pairs: Pairs | None, seeds: Sequence[int], level: float
) -> Outcome:
    parts = []
    for expect in claim.headline:
        d = np.array(values(expect, numbers, seeds))
        parts.append((expect, d, _error(claim, expect, d, pairs, seeds)))
    delta = claim.delta_of(claim.headline[0].metric)
    return str(headline_outcomes(parts, level, delta))  # type: ignore[return-value]


def _mechanism(claim: Claim, numbers: Numbers, seeds: Sequence[int], level: float) -> Mechanism:
    gain = claim.gain
    d = np.array(values(gain, numbers, seeds))
    rest = []
    ablations = []
    for arm in claim.mechanism:
        own = np.array(differences(gain, numbers, seeds, arm))
        half = d / 2 - own
        error = standard_error(half, exact=gain.exact)
        rest.append((half, error))
        found = None if math.isnan(error) else interval(half.tolist(), level, error=float(error))
        ablations.append(Ablation(arm=arm, kept=own.mean() / d.mean(), interval=found))
    outcome = str(mechanism_outcomes(rest, level))
    return Mechanism(outcome=outcome, seeds=len(seeds), ablations=tuple(ablations))  # type: ignore[arg-type]


def _judged(
    claim: Claim,
    expect: Expect,
    numbers: Numbers,
    pairs: Pairs | None,
    seeds: Sequence[int],
    level: float,
) -> Judged:
    found = values(expect, numbers, seeds)
    d = np.array(found)
    error = _error(claim, expect, d, pairs, seeds)
    holds, fails = p_values(expect.kind, expect.bound, d, error)
    outcome: Outcome = "holds" if holds <= level else "fails" if fails <= level else "undecided"
    none = math.isnan(error)
    return Judged(
        expect=expect,
        outcome=outcome,
        values=found,
        mean=mean_of(found),
        interval=None if none else interval(found, level, error=float(error)),
        smallest_effect=None if none else smallest_effect(float(error), len(found), level),
    )


def _checks(
    claim: Claim, numbers: Numbers, pairs: Pairs | None, seeds: Sequence[int], level: float
) -> tuple[Judged, ...]:
    """The checks, those that hold and those that fail by Holm's procedure each."""
    tests = []
    for expect in claim.checks:
        d = np.array(values(expect, numbers, seeds))
        error = _error(claim, expect, d, pairs, seeds)
        tests.append([float(p) for p in p_values(expect.kind, expect.bound, d, error)])
    holds = holm([p for p, _ in tests], level)
    fails = holm([p for _, p in tests], level)
    found = []
    for expect, right, wrong in zip(claim.checks, holds, fails, strict=True):
        judged = _judged(claim, expect, numbers, pairs, seeds, level)
        outcome: Outcome = "holds" if right else "fails" if wrong else "undecided"
        found.append(Judged(**{**vars(judged), "outcome": outcome}))
    return tuple(found)


def _floor(
    claim: Claim, numbers: Numbers, seeds: Sequence[int]
) -> tuple[dict[str, int], dict[str, float]]:
    """In how many seeds each learning arm is under the floor, and its mean."""
    under = {}
    reached = {}
    for arm in claim.learning:
        column = _column(numbers, seeds, arm, claim.floor.metric)
        under[arm] = sum(value < claim.floor.value for value in column)
        reached[arm] = mean_of(column)
    return under, reached


def _moved(claim: Claim, twice: Numbers) -> tuple[Moved, ...]:
    found = []
    for expect in claim.headline:
        if expect.other is None:
            continue
        once = differences(expect, twice, CONVERGENCE, expect.arm)
        later = differences(expect, twice, [-seed for seed in CONVERGENCE], expect.arm)
        by = tuple(two - one for one, two in zip(once, later, strict=True))
        found.append(Moved(says=str(expect), by=by, delta=claim.delta_of(expect.metric)))
    return tuple(found)


def values(expect: Expect, numbers: Numbers, seeds: Sequence[int]) -> tuple[float, ...]:
    """What an expectation's interval is of, a number a seed, less its control variate."""
    if expect.kind == "at_most":
        found = _column(numbers, seeds, expect.arm, expect.metric)
    else:
        found = differences(expect, numbers, seeds, expect.arm)
    control = expect.control
    if control is None:
        return found
    beside = _column(numbers, seeds, control.arm, control.metric)
    pairs = zip(found, beside, strict=True)
    return tuple(d - control.coefficient * (z - control.mean) for d, z in pairs)


def differences(
    expect: Expect, numbers: Numbers, seeds: Sequence[int], arm: str
) -> tuple[float, ...]:
    """`arm` less the arm that it is compared with, seed by seed; negated where smaller is better."""
    assert expect.other is not None
    sign = 1.0 if expect.higher else -1.0
    ours = _column(numbers, seeds, arm, expect.metric)
    theirs = _column(numbers, seeds, expect.other, expect.metric)
    return tuple(sign * (one - other) for one, other in zip(ours, theirs, strict=True))


def _column(numbers: Numbers, seeds: Sequence[int], arm: str, metric: str) -> tuple[float, ...]:
    """A metric of an arm, a number a seed."""
    for seed in seeds:
        if metric not in numbers[seed][arm]:
            raise unknown(f"metric of arm {arm!r}, seed {seed}", metric, numbers[seed][arm])
    return tuple(numbers[seed][arm][metric] for seed in seeds)


def _error(
    claim: Claim, expect: Expect, d: np.ndarray, pairs: Pairs | None, seeds: Sequence[int]
) -> np.ndarray:
    items = 0.0
    told = [] if pairs is None else [pairs.get(seed, {}).get(str(expect)) for seed in seeds]
    known = [each for each in told if each is not None]
    if known and len(known) == len(seeds):
        count = sum(number for number, _ in known)
        variance = sum(number * variance for number, variance in known) / count
        items = variance / (known[0][0] if claim.one_test_set else count)
    return standard_error(d, items=items, one_test_set=claim.one_test_set, exact=expect.exact)


def _would_decide(headline: Sequence[Judged], level: float) -> int | None:
    """The seeds with which the open expectation that needs most of them is decided with a power of
    80 %, were its mean and spread the truth; None above some thousands."""
    most = 0
    for item in headline:
        if item.outcome != "undecided":
            continue
        if item.interval is None:
            return None
        edge = {"better": 0.0, "at_most": item.expect.bound}.get(item.expect.kind)
        edges = [edge] if edge is not None else [-item.expect.bound, item.expect.bound]
        distance = min(abs(item.mean - each) for each in edges)
        n = len(item.values)
        sd = item.interval.half / float(student().isf(level, n - 1)) * math.sqrt(n)
        while smallest_effect(sd / math.sqrt(n), n, level) > distance:
            n += max(1, n // 20)
            if n > _MOST_SEEDS:
                return None
        most = max(most, n)
    return most or None
