"""What surrounds the search: AdamW's rate, the funnel of larger tasks, and the simplification."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from diptych.lab.discover.evolve import Measured
from diptych.lab.discover.ledger import Ledger
from diptych.lab.discover.mutate import can_train, without
from diptych.lab.discover.task import Task
from diptych.training.programs.program import Program, simplified

GRID = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Rates of AdamW that are tried on the proxy, times the recipe's."""
_WIDER = 4  # rates that are added to a grid at most
NEARBY = (1 / 3, 1.0, 3.0)
"""Rates of AdamW that are tried on a larger task, times the proxy's best."""
SEEDS = (1, 2)
"""Seeds of larger tasks and of the simplification; the search measures on the seed 0."""
ENTRANTS = (10, 3)
"""Programs that enter the first of the larger tasks, and each later one."""

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Bench:
    """The tasks by name, "proxy" first and then those of the funnel, and the record of all runs."""

    tasks: Mapping[str, Task]
    ledger: Ledger

    def measure(self, task: str, program: Program, seed: int, bar: float = math.inf) -> Measured:
        """Return the losses of a program on a task."""
        short = simplified(program)
        return self.ledger.measured(
            task, seed, short, lambda: self.tasks[task].measure(str(short), seed, bar)
        )

    def losses(self, task: str, program: Program) -> list[float]:
        """Return the losses of a program on a task, one for each of SEEDS."""
        return [self.measure(task, program, seed).loss for seed in SEEDS]

    def mean(self, task: str, program: Program) -> float:
        """Return the mean of `losses`."""
        return fmean(self.losses(task, program))


def best_rate(grid: Sequence[float], measure: Callable[[float], float], report: Report) -> float:
    """Return the rate with the least loss of a grid, which is widened while the best is at its end.

    >>> best_rate((0.1, 1, 10), lambda rate: abs(rate - 25), lambda done, total: None)
    30.0
    """
    losses: dict[float, float] = {}
    missing = list(grid)
    while missing:
        for rate in missing:
            losses[rate] = measure(rate)
            report(len(losses), max(len(grid), len(losses)))
        best = min(losses, key=lambda rate: losses[rate])
        missing = []
        if len(losses) < len(grid) + _WIDER and best in (min(losses), max(losses)):
            further = best / 3 if best == min(losses) else best * 3
            missing = [float(f"{further:.2g}")]
    return best


def funnel(bench: Bench, programs: Sequence[Program], report: Report) -> list[dict[str, float]]:
    """Train the best programs on the larger tasks, of which the better ones go on; return the mean
    losses by task for each of `programs` that entered, in their order."""
    larger = list(bench.tasks)[1:]
    entered = list(programs[: ENTRANTS[0]])
    found: list[dict[str, float]] = [{} for _ in entered]
    left = list(range(len(entered)))
    counts = [min(len(entered), ENTRANTS[min(at, 1)]) for at in range(len(larger))]
    done = 0
    for count, task in zip(counts, larger, strict=True):
        left = left[:count]
        for at in left:
            found[at][task] = bench.mean(task, entered[at])
            done += 1
            report(done, sum(counts))
        left.sort(key=lambda at: found[at][task])
    return found


def tuned(
    bench: Bench, adamw: Callable[[float], Program], rate: float, report: Report
) -> dict[str, float]:
    """Return AdamW's mean losses by larger task, on each at its best rate near that of the proxy."""
    grid = [float(f"{rate * times:.2g}") for times in NEARBY]
    found: dict[str, float] = {}
    for task in list(bench.tasks)[1:]:
        best = best_rate(grid, lambda rate: bench.mean(task, adamw(rate)), report)  # noqa: B023
        found[task] = bench.mean(task, adamw(best))
    return found


def shortened(bench: Bench, program: Program, report: Report) -> Program:
    """Return the program without the statements whose removal, all together, raises the proxy's loss
    by no more than its noise; only those without effect are left out if the loss on the last of the
    larger tasks rises by more."""
    winner = simplified(program)
    found = winner
    count = len(winner.statements)
    for done, at in enumerate(reversed(range(count)), 1):
        report(done, count)
        if at >= len(found.statements):  # a removal made others superfluous
            continue
        for shorter in without(found, at):
            if can_train(shorter) and _is_as_good(bench, "proxy", shorter, winner):
                found = simplified(shorter)
                break
    return found if _is_as_good(bench, list(bench.tasks)[-1], found, winner) else winner


def _is_as_good(bench: Bench, task: str, program: Program, winner: Program) -> bool:
    """Whether the loss is under no seed above the winner's by more than its standard error over
    SEEDS."""
    before = bench.losses(task, winner)
    noise = stdev(before) / math.sqrt(len(before))
    return all(
        bench.measure(task, program, seed).loss <= loss + noise
        for seed, loss in zip(SEEDS, before, strict=True)
    )
