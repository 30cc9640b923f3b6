"""A claim of a paper as a file that runs: arms to compare, what the paper's sentence says of them,
and what would break it.

`lab/claims/NAME.py`, named as the method, has a module-level `claim`; `diptych reproduce NAME` runs
it and `lab.verdict` judges it by rule. Where the paper's own kind of data does not ship, a second
one, `real`, is beside it. A claim in a file anywhere else runs too: `diptych reproduce my_claim.py`.

    claim = Claim(
        question="With the sign of the momentum in place of its size, recall is no worse at half the state.",
        arms={"adamw": adamw, "lion": lion, "sgd": sgd, "equal_betas": equal_betas},
        headline=(
            not_worse("t2i_r1", "lion", than="adamw", margin=0.02),
            at_most("state_bytes_a_parameter", "lion", 4.0, exact=True),
        ),
        checks=(better("t2i_r1", "lion", over="sgd"),),
        delta=0.02,
        looks=(5, 10),
        floor=Floor("t2i_r1", chance=1 / 500),
        tuned=Tuned(effect=0.004, sd=0.011, best=0.31, chance=1 / 500, seconds=240),
    )

Everything here is committed before the result: no verdict is stored for a tree with uncommitted
changes.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from diptych.errors import InputError, unknown
from diptych.files import python_file, run_module

CLAIMS = Path(__file__).parent / "claims"
BLOCKS = ("claim", "real")
SEEDS = tuple(range(200, 220))
"""Seeds of stored runs, taken from the first on; nothing is chosen on them. A later edition of a claim
has as many that no earlier one used."""
TUNING = tuple(range(100, 106))
"""Seeds on which sizes, rates, spreads and control variates are chosen."""
CONVERGENCE = TUNING[:3]
"""Tuning seeds on which the headline's arms are also run with twice their steps."""
LOOKS: Mapping[tuple[int, ...], float] = {(5,): 0.025, (5, 10): 0.014, (5, 10, 20): 0.0096}
"""Numbers of seeds after which a claim may be judged, and the one-sided level of each look: in all
they hold 2.5 % of claims that have no effect."""


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What an arm, or the prelude, receives: one seed, one thread, a folder of its own.

    `quick` asks for so little work that all arms of a seed take three minutes at the most.
    `stretch` multiplies an arm's steps: 2 where convergence is tested. `prelude` is what the
    prelude of this seed returned. `folder` is empty at the start and is removed after the verdict.
    `log` shows a line to the person who waits.
    """

    seed: int
    folder: Path
    quick: bool = False
    stretch: int = 1
    prelude: Any = None
    log: Callable[[str], None] = _silent

    def steps(self, full: float, quick: float) -> Any:
        """Return the steps, or epochs, of an arm: `quick` for a quick run, else `full`, stretched.

        >>> Trial(seed=0, folder=Path(), stretch=2).steps(100, quick=5)
        200
        """
        return quick if self.quick else full * self.stretch


Arm = Callable[[Trial], Mapping[str, Any]]
"""Runs one arm of one seed and returns its metrics: a finite number, or the values of the test items
whose mean it is; a run that diverged gets the numbers it deserves. Of several names, their metrics
by name."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control variate: what is compared, less `coefficient` (metric of arm - `mean`), both fixed
    beforehand."""

    metric: str
    arm: str
    coefficient: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class Expect:
    """One expectation; made by `better`, `not_worse`, `equal` or `at_most`, judged by the rule of
    that name in `lab.verdict`. `other` is the arm it is compared with; `bound` the margin, or the
    most allowed; `exact` says that the quantity has no spread that seeds could show (bytes,
    counts)."""

    kind: Literal["better", "not_worse", "equal", "at_most"]
    metric: str
    arm: str
    other: str | None = None
    bound: float = 0.0
    higher: bool = True
    exact: bool = False
    control: Control | None = None

    def __str__(self) -> str:
        """In words.

        >>> print(not_worse("r1", "lion", than="adamw", margin=0.02))
        r1: lion not worse than adamw by 0.02
        """
        words = {
            "better": f"{'above' if self.higher else 'below'} {self.other}",
            "not_worse": f"not worse than {self.other} by {self.bound:g}",
            "equal": f"within {self.bound:g} of {self.other}",
            "at_most": f"at most {self.bound:g}",
        }
        return f"{self.metric}: {self.arm} {words[self.kind]}"

    @property
    def reads(self) -> tuple[tuple[str, str], ...]:
        """The arms and metrics that it is judged by."""
        control = self.control
        beside = () if control is None else ((control.arm, control.metric),)
        other = () if self.other is None else ((self.other, self.metric),)
        return ((self.arm, self.metric), *other, *beside)


def better(metric: str, arm: str, over: str, *, higher: bool = True, **options: Any) -> Expect:
    """`arm` is better than `over`; `higher=False` where smaller is better."""
    return Expect(kind="better", metric=metric, arm=arm, other=over, higher=higher, **options)


def not_worse(
    metric: str, arm: str, than: str, margin: float, *, higher: bool = True, **options: Any
) -> Expect:
    """`arm` is worse than `than` by less than `margin`."""
    return Expect(
        kind="not_worse", metric=metric, arm=arm, other=than, bound=margin, higher=higher, **options
    )


def equal(metric: str, arm: str, to: str, margin: float, **options: Any) -> Expect:
    """`arm` differs from `to` by less than `margin`, either way."""
    return Expect(kind="equal", metric=metric, arm=arm, other=to, bound=margin, **options)


def at_most(metric: str, arm: str, most: float, **options: Any) -> Expect:
    """The metric of `arm` itself is `most` or less."""
    return Expect(kind="at_most", metric=metric, arm=arm, bound=most, **options)


@dataclass(frozen=True)
class Floor:
    """What an arm must reach before anything is claimed of it, from what chance would give.

    `arms` are those that should learn; none named: all but the ablations of the mechanism. `least`
    is a higher floor than that of chance, as where an untrained model is above chance.
    """

    metric: str
    chance: float
    arms: tuple[str, ...] = ()
    least: float = -math.inf

    @property
    def value(self) -> float:
        """Three times chance where chance is at most .2, else .3 of the way from chance to 1; or
        `least`.

        >>> Floor("accuracy", 0.1).value, Floor("accuracy", 0.5).value
        (0.30000000000000004, 0.65)
        """
        chance = self.chance
        return max(3 * chance if chance <= 0.2 else chance + 0.3 * (1 - chance), self.least)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What four tuning seeds showed of the headline's first expectation, fixed before the result:
    mean and standard deviation of its differences, the mean of its better arm and what chance gives
    of that metric (where smaller is better, what it is without the method), and the CPU seconds of a
    seed."""

    effect: float
    sd: float
    best: float
    chance: float = 0.0
    seconds: float


Rates = Mapping[float, float]
"""Learning rates that were tried, and the mean score of each on two tuning seeds."""


def best(rates: Rates) -> float:
    """Return the rate with the highest score.

    >>> best({1e-3: 0.41, 2e-3: 0.48, 4e-3: 0.44})
    0.002
    """
    return max(rates, key=lambda rate: rates[rate])


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is asked, of which arms, and by how many seeds it may be answered.

    `headline` is what the paper's sentence says: one expectation, or those that it joins; it alone
    makes the verdict. `checks` are everything else worth knowing. `mechanism` names the arms without
    what is said to be the cause: each ought to lose at least half of the headline's first `better`.
    `delta` is the smallest effect that would matter, one for all metrics of the headline or one for
    each. `prelude` runs once a seed, before its arms,
    which get what it returned (whatever pickles; files are in its `trial.folder`). `steps` is False
    where no arm takes steps that could be doubled; `one_test_set` is True where all seeds are
    measured on the same items. `rates` are the learning rates from which those of the headline's
    arms were chosen. `table` names the metrics to show: by default those that are judged. `edition`
    counts the forms in which the claim was judged: each has fresh seeds.

    Raises InputError for an arm that does not exist, a margin that is none or above delta, looks
    that are not declared, a delta above a tenth of what the better arm gains over chance, a rate at
    the edge of its grid.
    """

    question: str
    arms: Mapping[Any, Arm]
    headline: Sequence[Expect]
    floor: Floor
    delta: float | Mapping[str, float] = 0.0
    looks: tuple[int, ...] = (5,)
    mechanism: Sequence[str] = ()
    checks: Sequence[Expect] = ()
    prelude: Callable[[Trial], Any] | None = None
    steps: bool = True
    one_test_set: bool = False
    tuned: Tuned | None = None
    rates: Mapping[str, Rates] = field(default_factory=dict)
    table: Sequence[str] = ()
    edition: int = 1

    def __post_init__(self) -> None:
        if self.looks not in LOOKS:
            known = " or ".join(str(looks) for looks in LOOKS)
            raise InputError(f"a claim looks after {self.looks} seeds; declare {known}")
        if self.edition < 1:
            raise InputError(f"the edition of a claim is {self.edition}; the first is 1")
        if not self.headline:
            raise InputError(
                "a claim has no headline; give better, not_worse, equal or at_most in `headline`"
            )
        for name in self.names:
            if not re.fullmatch(r"[\w.+-]+", name):
                raise InputError(
                    f"the arm {name!r} cannot be the name of a folder; use letters, digits and _ . + -"
                )
        for expect in self.judged:
            if expect.kind != "at_most" and expect.bound < 0:
                raise InputError(
                    f"{expect}: the margin is {expect.bound:g}; it must not be negative"
                )
            for name, _ in expect.reads:
                if name not in self.names:
                    raise unknown("arm of a claim", name, self.names)
        for name in (*self.floor.arms, *self.mechanism, *self.rates):
            if name not in self.names:
                raise unknown("arm of a claim's floor, mechanism or rates", name, self.names)
        if self.mechanism and all(expect.kind != "better" for expect in self.headline):
            raise InputError(
                "a mechanism explains a gain, and no expectation of the headline is `better`; leave it out"
            )
        self._check_delta()
        for arm, scores in self.rates.items():
            chosen = best(scores)
            if len(scores) < 3 or chosen in (min(scores), max(scores)):
                raise InputError(
                    f"the rates of {arm} are {sorted(scores)}, the best {chosen:g}; try three or more, the best of "
                    "them not at an end"
                )

    def _check_delta(self) -> None:
        compared = [expect for expect in self.headline if expect.kind != "at_most"]
        for expect in compared:
            delta = self.delta_of(expect.metric)
            if not delta > 0 and not expect.exact:
                raise InputError(
                    f"a claim has no delta of {expect.metric}; give the smallest effect that would matter"
                )
            if expect.bound > delta:
                raise InputError(
                    f"{expect}: the margin is above delta, {delta:g}; take a smaller margin"
                )
        tuned = self.tuned
        first = self.delta_of(self.headline[0].metric)
        if tuned is None or not compared:
            return
        if first > abs(tuned.best - tuned.chance) / 10 + 1e-12:
            raise InputError(
                f"delta is {first:g}, above a tenth of what lies between the better arm and chance on the tuning seeds "
                f"({tuned.best:g} and {tuned.chance:g}); take a smaller one"
            )

    def delta_of(self, metric: str) -> float:
        """Return the smallest effect on a metric that would matter."""
        return self.delta.get(metric, 0.0) if isinstance(self.delta, Mapping) else self.delta

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all arms."""
        return tuple(name for arm in self.arms for name in arm_names(arm))

    @property
    def judged(self) -> tuple[Expect, ...]:
        """The expectations of the headline and the checks."""
        return (*self.headline, *self.checks)

    @property
    def gain(self) -> Expect:
        """The expectation that a mechanism explains: the headline's first `better`."""
        return next(expect for expect in self.headline if expect.kind == "better")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all its looks: 200 to 219, 220 to 239 in a second edition, and so on."""
        first = len(SEEDS) * (self.edition - 1)
        return tuple(seed + first for seed in SEEDS[: self.looks[-1]])

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics of the table."""
        return tuple(self.table) or tuple(
            dict.fromkeys([*(item.metric for item in self.judged), self.floor.metric])
        )

    @property
    def learning(self) -> tuple[str, ...]:
        """The arms that the floor holds for."""
        return self.floor.arms or tuple(name for name in self.names if name not in self.mechanism)

    def needs(self, arm: str) -> set[str]:
        """The metrics that an arm must return."""
        found = {metric for expect in self.judged for name, metric in expect.reads if name == arm}
        if arm in self.mechanism:
            found.add(self.gain.metric)
        if arm in self.learning:
            found.add(self.floor.metric)
        return found


def arm_names(arm: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a key of `Claim.arms`, one or several."""
    return (arm,) if isinstance(arm, str) else arm


def names(folder: Path | None = None) -> list[str]:
    """The claims there are: the files of the folder, by default lab/claims."""
    return sorted(path.stem for path in (folder or CLAIMS).glob("[a-z]*.py"))


def find(name: str, folder: Path | None = None) -> Path:
    """The file of a claim, by its name or its own path (`*.py`); an unknown name shows the
    nearest."""
    if name.endswith(".py"):
        return python_file(name, "claim")
    if name not in names(folder):
        raise unknown("claim", name, names(folder))
    return (folder or CLAIMS) / f"{name}.py"


def load(path: Path) -> ModuleType:
    """The module of a claim's file, freshly executed."""
    name = (
        f"diptych.lab.claims.{path.stem}" if path.parent == CLAIMS else f"diptych_claim_{path.stem}"
    )
    return run_module(path, name)


def block(path: Path, name: str = "claim") -> Claim:
    """The claim of a file: its `claim`, or the second one, `real`; InputError where the file has
    none."""
    found = getattr(load(path), name, None)
    if not isinstance(found, Claim):
        raise InputError(f"{path} has no {name} = Claim(…); see docs/lab.md")
    return found
