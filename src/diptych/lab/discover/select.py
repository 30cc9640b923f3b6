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
_WIDER = 4  # rates that are added to the grid at most
NEARBY = (1 / 3, 1.0, 3.0)
"""Rates of AdamW that are tried on a larger task, times the proxy's best."""
SEEDS = (1, 2)
"""Seeds of larger tasks and of the simplification; the search measures on the seed 0."""
KEPT = (10, 3)
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


def best_rate(measure: Callable[[float], float], report: Report) -> float:
    """Return the rate with the least loss of GRID, which is widened while the best is at its end.

    >>> best_rate(lambda rate: abs(rate - 25), lambda done, total: None)
    30.0
    """
    losses: dict[float, float] = {}
    missing = list(GRID)
    while missing:
        for rate in missing:
            losses[rate] = measure(rate)
            report(len(losses), len(GRID))
        best = min(losses, key=lambda rate: losses[rate])
        missing = []
        if len(losses) < len(GRID) + _WIDER and best in (min(losses), max(losses)):
            further = best / 3 if best == min(losses) else best * 3
            missing = [float(f"{further:.2g}")]
    return best


def funnel(bench: Bench, programs: Sequence[Program], report: Report) -> list[dict[str, float]]:
    """Train the best programs on the larger tasks, of which the better ones go on; return the mean
    losses by task for each of `programs` that entered, in their order."""
    larger = list(bench.tasks)[1:]
    entered = list(programs[: KEPT[0]])
    found: list[dict[str, float]] = [{} for _ in entered]
    left = list(range(len(entered)))
    counts = [min(len(entered), KEPT[min(at, 1)]) for at in range(len(larger))]
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
    larger = list(bench.tasks)[1:]
    found: dict[str, float] = {}
    done = 0
    for task in larger:
        means = []
        for times in NEARBY:
            means.append(bench.mean(task, adamw(rate * times)))
            done += 1
            report(done, len(larger) * len(NEARBY))
        found[task] = min(means)
    return found


def shortened(bench: Bench, program: Program, report: Report) -> Program:
    """Return the program without the statements whose removal, all together, raises the proxy's loss
    by no more than its noise, the standard error over SEEDS, under any of them."""
    before = bench.losses("proxy", program)
    noise = stdev(before) / math.sqrt(len(before))

    def is_as_good(shorter: Program) -> bool:
        return can_train(shorter) and all(
            bench.measure("proxy", shorter, seed).loss <= loss + noise
            for seed, loss in zip(SEEDS, before, strict=True)
        )

    program = simplified(program)
    steps = len(program.statements)
    for done, at in enumerate(reversed(range(steps)), 1):
        if at >= len(program.statements):  # a removal made others superfluous
            continue
        for shorter in without(program, at):
            if is_as_good(shorter):
                program = simplified(shorter)
                break
        report(done, steps)
    return program
