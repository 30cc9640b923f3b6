"""Guards of the steps: detection of loss spikes, records of the samples of a refused step, and
detection of forgetting."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych import collectives
from diptych.errors import InputError, brief
from diptych.files import write_atomic
from diptych.methods.base import At

WARM_UP = 20
"""The number of losses of a stage before one can be a spike."""
_WINDOW = 100


class SpikeGuard:
    """Detects a spike: a loss above `factor` times the median of the stage's last 100, once there
    are 20. None: never.

    Spikes enter the median like all other losses. A single one does not move it, and if losses rise
    permanently, the median follows within half a window, so that not all further steps are skipped.

    >>> guard = SpikeGuard(5.0)
    >>> [guard.leap(loss) for loss in [2.0] * 20 + [40.0, 2.0]][-3:]
    [None, 20.0, None]
    """

    def __init__(self, factor: float | None):
        self.factor = factor
        self.losses: list[float] = []  # state: goes into checkpoints, starts anew with each stage

    def leap(self, loss: float) -> float | None:
        """Return the ratio of this loss to the median if it is a spike."""
        if self.factor is None or not math.isfinite(loss):
            return None
        usual = median(self.losses) if len(self.losses) >= WARM_UP else 0.0
        self.losses = [*self.losses, loss][-_WINDOW:]
        return loss / usual if 0 < usual * self.factor < loss else None


LOOKS = 20
"""The maximum number of measurements of the guarded score in a stage."""


class ForgettingGuard:
    """Detects forgetting: a score (`remember(module)`, larger is better) more than `forget` below
    the first one.

    The weights of the last measurement before that are kept in `folder`.
    """

    def __init__(self, remember: Callable[[Any], float] | None, forget: float, folder: Path):
        self.remember = remember
        self.forget = forget
        self.path = folder / "kept.safetensors"
        self.start: float | None = None
        self.kept = 0  # the step of the kept weights
        self.lost: dict[str, float] = {}

    def look(self, score: float, done: int, weights: Callable[[], Mapping[str, Tensor]]) -> bool:
        """Return whether the score fell too far; if not, keep the weights. All ranks must call
        it."""
        self.start = score if self.start is None else self.start
        if score < self.start - self.forget:
            self.lost = {"start": self.start, "score": score, "step": done, "kept": self.kept}
            return True
        state = {name: value.detach().cpu().contiguous() for name, value in weights().items()}
        if collectives.rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, lambda path: save_file(state, path))
        self.kept = done
        return False

    def weights(self) -> dict[str, Tensor]:
        """Return the kept weights, on rank 0."""
        if collectives.rank() > 0:
            return {}
        try:
            return load_file(self.path)
        except (OSError, SafetensorError) as error:
            message = f"{self.path}, the weights before the model forgot, is damaged ({brief(error)}); train anew"
            raise InputError(message) from None

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint; the weights are in the file."""
        return {"start": self.start, "kept": self.kept, "lost": dict(self.lost)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        if state:
            self.start = state["start"]
            self.kept = state["kept"]
            self.lost = dict(state["lost"])


def write_samples(path: Path, batch: Any, at: At) -> str:
    """Write down the samples of a step and return some of their keys. All ranks must call it."""
    batches = batch if isinstance(batch, Mapping) else {"train": batch}
    keys = {
        name: [key for keys in collectives.gather_objects(list(each.keys)) for key in keys]
        for name, each in batches.items()
    }
    if collectives.rank() == 0:
        text = json.dumps({"stage": at.stage, "step": at.step, "keys": keys}, indent=1)
        write_atomic(path, lambda temporary: temporary.write_text(text))
    return ", ".join(next(iter(keys.values()))[:3])
