"""Learning-rate schedules: a factor between 0 and 1 for each step."""

from dataclasses import dataclass
from math import cos, pi
from typing import Annotated

from diptych.errors import InputError, unknown
from diptych.spec import AtLeast, configure, parse

SCHEDULES = ("cosine", "constant", "linear", "onecycle")


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Options of `onecycle`. The rate starts at 1/`start` of the peak and ends at 1/`end` of that.
    The cycle spans `length` times the steps of the run, so that a run may stop on the way down."""

    start: Annotated[float, AtLeast(1)] = 25.0
    end: Annotated[float, AtLeast(1)] = 1e4
    length: Annotated[float, AtLeast(1)] = 1.0


def factor(
    step: int, steps: int, *, schedule: str = "cosine", warmup: float = 0.0, min_lr: float = 0.0
) -> float:
    """Return the factor at `step` (0 … steps-1): a linear warm-up, then the schedule down to
    `min_lr`.

    `warmup` is a number of steps, or a share of all steps if below 1. "onecycle" rises and falls by
    cosines instead, between its own ends (`OneCycle`, as "onecycle:start=100"); its share is of the
    steps that the cycle spans. It is torch's OneCycleLR.

    >>> [round(factor(step, 6, warmup=2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    parsed = parse(schedule)
    if parsed.name not in SCHEDULES:
        raise unknown("schedule", parsed.name, SCHEDULES)
    if parsed.name == "onecycle":
        return _one_cycle(
            step, steps, warmup, configure(OneCycle, parsed.options, "schedule 'onecycle'")
        )
    if parsed.options:
        raise InputError(f"schedule {schedule!r} takes no options; write {parsed.name}")
    rising = round(warmup * steps) if warmup < 1 else int(warmup)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(steps - rising, 1)
    shape = {"cosine": 0.5 * (1 + cos(pi * done)), "linear": 1 - done, "constant": 1.0}[parsed.name]
    return min_lr + (1 - min_lr) * shape


def _one_cycle(step: int, steps: int, warmup: float, options: OneCycle) -> float:
    """Rise from `low` to 1 at the last step of the warm-up, then fall."""
    total = round(options.length * steps)
    low = 1 / options.start
    peak = (warmup * total if warmup < 1 else warmup) - 1
    if step <= peak:
        return 1 + (low - 1) / 2 * (1 + cos(pi * step / peak))
    peak = max(peak, 0)
    last = low / options.end
    return last + (1 - last) / 2 * (1 + cos(pi * min(1, (step - peak) / max(total - 1 - peak, 1))))
