"""A claim of a paper as an executable file: the arms to compare, the expectations, and the
ablations that should break them.

`lab/claims/NAME.py`, named after the method, has a module-level `claim`; `diptych reproduce NAME`
runs it and `lab.verdict` judges it by rule. If the paper's kind of data does not ship with the
package, a second claim in the file, `real`, uses real data. Other claims may be files anywhere:
`diptych reproduce my_claim.py`.

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
    """The argument of an arm, or of the prelude: a seed and a separate folder; each has one thread.

    `quick` asks for so little work that all arms of a seed take at most three minutes. `prelude` is
    the return value of this seed's prelude. `folder` is empty at the start and is removed after the
    verdict. `log` shows a line to the user.
    """

    seed: int
    folder: Path
    quick: bool = False
    prelude: Any = None
    log: Callable[[str], None] = _silent


Arm = Callable[[Trial], Mapping[str, float]]
"""Runs one arm of one seed and returns its metrics as finite numbers: a diverged run returns the
numbers that it deserves."""


@dataclass(frozen=True, kw_only=True)
class Expect:
    """One expectation; made by `better`, `not_worse`, `equal` or `at_most`, and judged by the rule
    of that name in `lab.verdict`. `other` is the arm to compare with; `bound` is the margin, or the
    maximum."""

    kind: Literal["better", "not_worse", "equal", "at_most"]
    metric: str
    arm: str
    other: str | None = None
    bound: float = 0.0
    higher: bool = True
    breaking: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the expectation in words, without the arms that should break it.

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
    """`arm` is better than `over`, and each arm of `breaking` (ablations that should break the
    effect) loses at least half of that gain. Set `higher=False` if smaller is better."""
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
    """The minimum that an arm must reach before claims about it count, relative to chance.

    `arms` are those that should learn; by default all but the breaking ablations.
    """

    metric: str
    chance: float
    arms: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """Three times chance if chance is at most .2, else .3 of the way from chance to 1.

        >>> Floor("accuracy", 0.1).value, Floor("accuracy", 0.5).value
        (0.30000000000000004, 0.65)
        """
        return 3 * self.chance if self.chance <= 0.2 else self.chance + 0.3 * (1 - self.chance)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The question, the seeds, the arms and the expectations of a claim.

    Use at least 5 seeds if an arm takes under a minute, else 3; not those that hyper-parameters
    were chosen on. `prelude` runs once for each seed, before its arms, which receive its return
    value (anything that pickles; files are in its `trial.folder`). `table` names the metrics to
    show, by default those that are judged. Raises InputError for an unknown arm, an invalid margin,
    or too few seeds.
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
        """The arms that the floor applies to."""
        breaking = {name for item in self.expect for name in item.breaking}
        return self.floor.arms or tuple(name for name in self.arms if name not in breaking)


def names(folder: Path | None = None) -> list[str]:
    """Return the names of all claims: the files of the folder, by default lab/claims."""
    return sorted(path.stem for path in (folder or CLAIMS).glob("[a-z]*.py"))


def find(name: str, folder: Path | None = None) -> Path:
    """Return the file of a claim, by its name or its path (`*.py`). An error for an unknown name
    suggests the nearest."""
    if name.endswith(".py"):
        return python_file(name, "claim")
    if name not in names(folder):
        raise unknown("claim", name, names(folder))
    return (folder or CLAIMS) / f"{name}.py"


def load(path: Path) -> ModuleType:
    """Return the module of a claim's file, newly executed."""
    name = (
        f"diptych.lab.claims.{path.stem}" if path.parent == CLAIMS else f"diptych_claim_{path.stem}"
    )
    return run_module(path, name)


def block(path: Path, name: str = "claim") -> Claim:
    """Return the claim of a file: its `claim`, or the second one, `real`. Raises InputError if the
    file has none."""
    found = getattr(load(path), name, None)
    if not isinstance(found, Claim):
        raise InputError(f"{path} has no {name} = Claim(…); see docs/lab.md")
    return found
