"""Regularised evolution of programs (Real et al., 2019), and random search with as many evaluations.

A tournament chooses the parent, one change makes the child, and the oldest member leaves. Programs
of one hash are evaluated once. The search depends on the seed and on the measured losses alone, so
it repeats from a record of them.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from diptych.lab.discover.mutate import mutated
from diptych.rng import generator
from diptych.spec import Count
from diptych.training.programs.program import Program, digest, simplified

Kind = Literal["evolution", "random"]


@dataclass(frozen=True)
class Measured:
    """A program's loss on held-out data, infinite if it was stopped early or diverged, and that of
    its early look."""

    loss: float
    early: float


Measure = Callable[[Program, float], Measured]
"""`measure(program, bar)` trains by a program, and stops if its early loss is above the bar."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`sample` members of the population meet in a tournament; after `patience` evaluations without
    a better program the population begins anew, in turn from the first program and from the best.
    `changes` is the largest number of changes of a candidate of random search."""

    kind: Kind = "evolution"
    evaluations: Count = 600
    seed: int = 0
    population: Count = 20
    sample: Count = 5
    patience: Count = 100
    changes: Count = 10


@dataclass(frozen=True)
class Member:
    """A program and its measured losses."""

    program: Program
    measured: Measured

    @property
    def loss(self) -> float:
        return self.measured.loss


def search(
    start: Program, measure: Measure, settings: Settings, report: Callable[[int, int], None]
) -> list[Member]:
    """Return all programs that were evaluated, the best first; `start` is one of them.

    `report(done, total)` receives the number of evaluations.
    """
    found: dict[str, Member] = {}

    def evaluated(program: Program, bar: float) -> Member:
        key = digest(program)
        if key not in found:
            found[key] = Member(program, measure(simplified(program), bar))
            report(len(found), settings.evaluations)
        return Member(program, found[key].measured)

    first = evaluated(start, float("inf"))
    population = _begun(first, settings)
    best = first
    improved = 1  # the number of evaluations when the population last found a better program
    top = first.loss  # of this population
    restarts = 0
    for turn in range(50 * settings.evaluations):  # equal programs cost a turn, no evaluation
        if len(found) >= settings.evaluations:
            break
        rng = generator(settings.seed, "discover", turn)
        member = evaluated(_child(start, population, settings, rng), _bar(population))
        population.append(member)
        population.popleft()
        if member.loss < best.loss:
            best = member
        if member.loss < top:
            top = member.loss
            improved = len(found)
        elif len(found) - improved >= settings.patience:
            origin = best if restarts % 2 else first
            restarts += 1
            population = _begun(origin, settings)
            improved = len(found)
            top = origin.loss
    return sorted(found.values(), key=lambda member: member.loss)


def _child(
    start: Program, population: deque[Member], settings: Settings, rng: np.random.Generator
) -> Program:
    """Return a change of the winner of a tournament, or in random search changes of `start`."""
    if settings.kind == "random":
        child = start
        for _ in range(1 + int(rng.integers(settings.changes))):
            child = mutated(child, rng)
        return child
    drawn = rng.choice(len(population), min(settings.sample, len(population)), replace=False)
    parent = min((population[at] for at in drawn), key=lambda member: member.loss)
    return mutated(parent.program, rng)


def _begun(member: Member, settings: Settings) -> deque[Member]:
    return deque([member] * settings.population)


def _bar(population: deque[Member]) -> float:
    """Return the early loss above which a candidate is clearly worse: the largest of the better half
    of the population, and half of what these gain from there to the end."""
    middle = median(member.loss for member in population)
    better = [member for member in population if member.loss <= middle < float("inf")]
    if not better:
        return float("inf")
    gain = max(max(member.measured.early - member.loss, 0.0) for member in better)
    return max(member.measured.early for member in better) + gain / 2
