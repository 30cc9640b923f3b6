"""Steps that must not be taken: how a spike of the loss is seen, and which samples met in a refused step."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from diptych import collectives
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.methods.base import At

WARM_UP = 20
"""Losses of a stage that are seen before any can be a spike."""
_WINDOW = 100


class Guard:
    """Sees a spike: a loss above `factor` times the median of the stage's last 100, once there are 20. None: never.

    Spikes enter the median like all others: one does not move it, and where losses rise for good, the median follows
    within half a window, so that no run is skipped to its end.

    >>> guard = Guard(5.0)
    >>> [guard.leap(loss) for loss in [2.0] * 20 + [40.0, 2.0]][-3:]
    [None, 20.0, None]
    """

    def __init__(self, factor: float | None):
        if factor is not None and factor <= 1:
            raise InputError(f"spike is {factor}; it is a multiple of the usual loss above 1, such as 5")
        self.factor = factor
        self.losses: list[float] = []  # state: goes into checkpoints, starts anew with each stage

    def leap(self, loss: float) -> float | None:
        """How many times the usual loss this one is, where that makes it a spike."""
        if self.factor is None or not math.isfinite(loss):
            return None
        usual = median(self.losses) if len(self.losses) >= WARM_UP else 0.0
        self.losses = [*self.losses, loss][-_WINDOW:]
        return loss / usual if 0 < usual * self.factor < loss else None


def write_samples(path: Path, batch: Any, at: At) -> str:
    """All ranks come here together: write down which samples of which step met; gives the names of some."""
    batches = batch if isinstance(batch, Mapping) else {"train": batch}
    keys = {
        name: [key for keys in collectives.gather_objects(list(each.keys)) for key in keys]
        for name, each in batches.items()
    }
    if collectives.rank() == 0:
        text = json.dumps({"stage": at.stage, "step": at.step, "keys": keys}, indent=1)
        write_atomic(path, lambda temporary: temporary.write_text(text))
    return ", ".join(next(iter(keys.values()))[:3])
