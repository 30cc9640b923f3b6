"""Learning-rate schedules: a factor between 0 and 1 for each step."""

from math import cos, pi

from diptych.errors import unknown

SCHEDULES = ("cosine", "constant", "linear")


def factor(step: int, steps: int, *, schedule: str = "cosine", warmup: float = 0.0, min_lr: float = 0.0) -> float:
    """The factor at `step` (0 … steps-1): a linear warm-up, then the schedule down to `min_lr`.

    `warmup` is a number of steps, or a share of all steps where below 1.

    >>> [round(factor(step, 6, warmup=2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    rising = round(warmup * steps) if warmup < 1 else int(warmup)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(steps - rising, 1)
    shape = {"cosine": 0.5 * (1 + cos(pi * done)), "linear": 1 - done, "constant": 1.0}[schedule]
    return min_lr + (1 - min_lr) * shape
