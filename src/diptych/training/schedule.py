"""Learning-rate schedules: a factor between 0 and 1 for each step.

All but `onecycle` rise linearly during the warm-up and then follow a shape down to `min_lr`. The
shapes of `restarts` and `cyclic` come back up, and `plateau` follows the validation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, Any, Protocol

from diptych.errors import InputError, unknown
from diptych.spec import AtLeast, Count, NotNegative, Positive, Share, configure, parse


class Shape(Protocol):
    """The part of a schedule after the warm-up: `shape(step, steps)` is the factor above `min_lr`
    at a step of those that are left."""

    def __call__(self, step: int, steps: int) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from 1 to 0."""

    def __call__(self, step: int, steps: int) -> float:
        return _cosine(step / steps)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """1 until the end."""

    def __call__(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A line from 1 to 0."""

    def __call__(self, step: int, steps: int) -> float:
        return 1 - step / steps


@dataclass(frozen=True, kw_only=True)
class Poly:
    """(1 - t)^`power` at the share t of the steps."""

    power: Positive = 0.9

    def __call__(self, step: int, steps: int) -> float:
        return (1 - step / steps) ** self.power


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Multiplied by `gamma` at each of the shares `milestones` of the steps after the warm-up."""

    milestones: tuple[Share, ...] = (0.6, 0.8)
    gamma: Share = 0.1

    def __call__(self, step: int, steps: int) -> float:
        return self.gamma ** sum(step >= round(share * steps) for share in self.milestones)


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """Half a cosine over the `first` steps, again over `times` as many, and so on: torch's
    CosineAnnealingWarmRestarts, stepped with each batch."""

    first: Count = 10
    times: Count = 2

    def __call__(self, step: int, steps: int) -> float:
        length = self.first
        if self.times == 1:
            step %= length
        while step >= length:
            step -= length
            length *= self.times
        return _cosine(step / length)


@dataclass(frozen=True, kw_only=True)
class Cyclic:
    """`cycles` whole cosines, each from 0 up to 1 and down again."""

    cycles: Count = 1

    def __call__(self, step: int, steps: int) -> float:
        return _cosine(1 + 2 * self.cycles * step / steps)


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """1, times `factor` whenever more than `patience` epochs did not improve the number that the stage
    selects by, by more than `threshold`: torch's ReduceLROnPlateau with an absolute threshold."""

    factor: Share = 0.5
    patience: Annotated[int, AtLeast(0)] = 10
    threshold: NotNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Options of `onecycle`. The rate starts at 1/`div_factor` of the peak and ends at
    1/`final_div_factor` of that.
    The cycle spans `length` times the steps of the run, so that a run may stop on the way down."""

    div_factor: Annotated[float, AtLeast(1)] = 25.0
    final_div_factor: Annotated[float, AtLeast(1)] = 1e4
    length: Annotated[float, AtLeast(1)] = 1.0


SCHEDULES: Mapping[str, type[Any]] = {
    "cosine": Cosine,
    "constant": Constant,
    "linear": Linear,
    "poly": Poly,
    "steps": Steps,
    "restarts": Restarts,
    "cyclic": Cyclic,
    "plateau": Plateau,
    "onecycle": OneCycle,
}


def shape_of(schedule: str) -> Any:
    """Return the shape of a name with options. Raises InputError for an unknown name or option.

    >>> shape_of("poly:power=0.5")
    Poly(power=0.5)
    """
    parsed = parse(schedule)
    if parsed.name not in SCHEDULES:
        raise unknown("schedule", parsed.name, SCHEDULES)
    kind = SCHEDULES[parsed.name]
    if parsed.options and not kind.__dataclass_fields__:
        raise InputError(f"schedule {schedule!r} takes no options; write {parsed.name}")
    return configure(kind, parsed.options, f"schedule {parsed.name!r}")


def factor(
    step: int,
    steps: int,
    *,
    schedule: str = "cosine",
    warmup: float = 0.0,
    min_lr: float = 0.0,
    lowered: int = 0,
) -> float:
    """Return the factor at `step` (0 … steps-1): a linear warm-up, then the schedule down to
    `min_lr`.

    `schedule` is a name with options, as "poly:power=0.9". `warmup` is a number of steps, or a
    share of all steps if below 1. "onecycle" rises and falls by cosines instead, between its own
    ends (`OneCycle`, as "onecycle:div_factor=100"); its share is of the steps that the cycle spans. It
    is torch's OneCycleLR. `lowered` is how often the validation was on a plateau, for "plateau".
    Raises InputError for an unknown schedule or option.

    >>> [round(factor(step, 6, warmup=2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    >>> [round(factor(step, 6, schedule="steps:milestones=(0.5,0.8)"), 3) for step in range(6)]
    [1.0, 1.0, 1.0, 0.1, 0.1, 0.01]
    """
    shape = shape_of(schedule)
    if isinstance(shape, OneCycle):
        return _one_cycle(step, steps, warmup, shape)
    rising = round(warmup * steps) if warmup < 1 else int(warmup)
    if step < rising:
        return (step + 1) / rising
    if isinstance(shape, Plateau):
        return max(min_lr, shape.factor**lowered)
    return min_lr + (1 - min_lr) * shape(step - rising, max(steps - rising, 1))


def _cosine(share: float) -> float:
    """Half a cosine: 1 at 0, 0 at 1."""
    return 0.5 * (1 + cos(pi * share))


def _one_cycle(step: int, steps: int, warmup: float, options: OneCycle) -> float:
    """Rise from `low` to 1 at the last step of the warm-up, then fall."""
    total = round(options.length * steps)
    low = 1 / options.div_factor
    peak = (warmup * total if warmup < 1 else warmup) - 1
    if step <= peak:
        return 1 + (low - 1) / 2 * (1 + cos(pi * step / peak))
    peak = max(peak, 0)
    last = low / options.final_div_factor
    return last + (1 - last) / 2 * (1 + cos(pi * min(1, (step - peak) / max(total - 1 - peak, 1))))
