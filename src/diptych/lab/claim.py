"""A claim of a paper as a file that runs: arms to compare, what is expected of them, and what would
break it.

`lab/claims/NAME.py`, named as the method, has a module-level `claim`; `diptych reproduce NAME` runs
it and `lab.verdict` judges it by rule. Where the paper's own kind of data does not ship, a second
one, `real`, stands beside it. A claim of one's own is a file anywhere: `diptych reproduce
my_claim.py`.

    claim = Claim(
        question="With the sign of the momentum in place of its size, recall is no worse at half the state.",
        seeds=(1, 2, 3, 4, 5),
        arms={"adamw": adamw, "lion": lion, "sgd": sgd, "equal_betas": equal_betas},
        expect=(
            not_worse("t2i_r1", "lion", than="adamw", margin=0.02),
            at_most("state_bytes_a_parameter", "lion", 4.0),
            better("t2i_r1", "lion", over="sgd", breaking=("equal_betas",)),
        ),
        floor=Floor("t2i_r1", chance=1 / 500),
    )

Sign, margins, floor, arms, seeds and grids are committed before the result: no verdict is stored
for a file with uncommitted changes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from diptych.errors import InputError, unknown
from diptych.files import python_file, run_module

CLAIMS = Path(__file__).parent / "claims"
BLOCKS = ("claim", "real")
FEWEST_SEEDS = 3


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What an arm, or the prelude, is handed: one seed, one thread, a folder of its own.

    `quick` asks for so little work that all arms of a seed take three minutes at the most.
    `prelude` is what the prelude of this seed returned. `folder` is empty at the start and is
    removed once the verdict is in. `log` shows a line to the person who waits.
    """

    seed: int
    folder: Path
    quick: bool = False
    prelude: Any = None
    log: Callable[[str], None] = _silent


Arm = Callable[[Trial], Mapping[str, float]]
"""Runs one arm of one seed and returns its metrics as finite numbers: a run that diverged gets
those it deserves."""


@dataclass(frozen=True, kw_only=True)
class Expect:
    """One expectation; made by `better`, `not_worse`, `equal` or `at_most`, judged by the rule of
    that name in `lab.verdict`. `other` is the arm it is compared with; `bound` the margin, or the
    most allowed."""

    kind: Literal["better", "not_worse", "equal", "at_most"]
    metric: str
    arm: str
    other: str | None = None
    bound: float = 0.0
    higher: bool = True
    breaking: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In words, without the arms that should break it.

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


def better(
    metric: str, arm: str, over: str, *, breaking: Sequence[str] = (), higher: bool = True
) -> Expect:
    """`arm` is better than `over`, and each arm of `breaking` (the ablations that ought to break
    it) loses at least half of that gain. `higher=False` where smaller is better."""
    return Expect(
        kind="better", metric=metric, arm=arm, other=over, higher=higher, breaking=tuple(breaking)
    )


def not_worse(metric: str, arm: str, than: str, margin: float, *, higher: bool = True) -> Expect:
    """`arm` is worse than `than` by less than `margin`."""
    return Expect(kind="not_worse", metric=metric, arm=arm, other=than, bound=margin, higher=higher)


def equal(metric: str, arm: str, to: str, margin: float) -> Expect:
    """`arm` differs from `to` by less than `margin`, either way."""
    return Expect(kind="equal", metric=metric, arm=arm, other=to, bound=margin)


def at_most(metric: str, arm: str, most: float) -> Expect:
    """The metric of `arm` itself is `most` or less."""
    return Expect(kind="at_most", metric=metric, arm=arm, bound=most)


@dataclass(frozen=True)
class Floor:
    """What an arm must reach before anything is claimed of it, from what chance would give.

    `arms` are those that should learn; none named: all but the breaking ablations.
    """

    metric: str
    chance: float
    arms: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """Three times chance where chance is at most .2, else .3 of the way from chance to 1.

        >>> Floor("accuracy", 0.1).value, Floor("accuracy", 0.5).value
        (0.30000000000000004, 0.65)
        """
        return 3 * self.chance if self.chance <= 0.2 else self.chance + 0.3 * (1 - self.chance)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is asked, on which seeds, of which arms.

    At least 5 seeds where an arm takes under a minute, else 3; not those that hyper-parameters were
    chosen on. `prelude` runs once a seed, before its arms, which get what it returned (whatever
    pickles; files lie in its `trial.folder`). `table` names the metrics to show: by default those
    that are judged. Raises InputError for an arm that does not exist, a margin that is none, too
    few seeds.
    """

    question: str
    seeds: tuple[int, ...]
    arms: Mapping[str, Arm]
    expect: Sequence[Expect]
    floor: Floor
    prelude: Callable[[Trial], Any] | None = None
    table: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < max(FEWEST_SEEDS, len(self.seeds)):
            raise InputError(
                f"a claim has the seeds {self.seeds}; give at least {FEWEST_SEEDS}, all different"
            )
        if not self.expect:
            raise InputError(
                "a claim expects nothing; add better, not_worse, equal or at_most to `expect`"
            )
        for name in self.arms:
            if not re.fullmatch(r"[\w.+-]+", name):
                raise InputError(
                    f"the arm {name!r} cannot be the name of a folder; use letters, digits and _ . + -"
                )
        for expect in self.expect:
            if expect.kind != "at_most" and expect.bound < 0:
                raise InputError(
                    f"{expect}: the margin is {expect.bound:g}; it must not be negative"
                )
            for name in (expect.arm, expect.other, *expect.breaking):
                if name is not None and name not in self.arms:
                    raise unknown("arm of a claim", name, self.arms)
        for name in self.floor.arms:
            if name not in self.arms:
                raise unknown("arm of a claim's floor", name, self.arms)

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics of the table."""
        return tuple(self.table) or tuple(
            dict.fromkeys([*(item.metric for item in self.expect), self.floor.metric])
        )

    @property
    def learning(self) -> tuple[str, ...]:
        """The arms that the floor holds for."""
        breaking = {name for item in self.expect for name in item.breaking}
        return self.floor.arms or tuple(name for name in self.arms if name not in breaking)


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
