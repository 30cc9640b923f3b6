"""Steps that must not be taken: how a spike of the loss is seen, which samples met in a refused
step, and where a model begins to forget what it could do before."""

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
"""Losses of a stage that are seen before any can be a spike."""
_WINDOW = 100


class SpikeGuard:
    """Sees a spike: a loss above `factor` times the median of the stage's last 100, once there are
    20. None: never.

    Spikes enter the median like all others: one does not move it, and where losses rise for good,
    the median follows within half a window, so that no run is skipped to its end.

    >>> guard = SpikeGuard(5.0)
    >>> [guard.leap(loss) for loss in [2.0] * 20 + [40.0, 2.0]][-3:]
    [None, 20.0, None]
    """

    def __init__(self, factor: float | None):
        self.factor = factor
        self.losses: list[float] = []  # state: goes into checkpoints, starts anew with each stage

    def leap(self, loss: float) -> float | None:
        """How many times the usual loss this one is, where that makes it a spike."""
        if self.factor is None or not math.isfinite(loss):
            return None
        usual = median(self.losses) if len(self.losses) >= WARM_UP else 0.0
        self.losses = [*self.losses, loss][-_WINDOW:]
        return loss / usual if 0 < usual * self.factor < loss else None


LOOKS = 20
"""How often a stage looks at what is guarded, at the most."""


class ForgettingGuard:
    """Sees a model forget: a score (`remember(module)`, larger is better) more than `forget` below
    that of the start.

    The weights of the last look at which it had not are kept in `folder`.
    """

    def __init__(self, remember: Callable[[Any], float] | None, forget: float, folder: Path):
        self.remember = remember
        self.forget = forget
        self.path = folder / "kept.safetensors"
        self.start: float | None = None
        self.kept = 0  # the step of the weights that are kept
        self.lost: dict[str, float] = {}

    def look(self, score: float, done: int, weights: Callable[[], Mapping[str, Tensor]]) -> bool:
        """Whether the score fell too far; else the weights are kept. All ranks come here
        together."""
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
        """Those that are kept, on rank 0."""
        if collectives.rank() > 0:
            return {}
        try:
            return load_file(self.path)
        except (OSError, SafetensorError) as error:
            message = f"{self.path}, the weights before the model forgot, is damaged ({brief(error)}); train anew"
            raise InputError(message) from None

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, beside the file."""
        return {"start": self.start, "kept": self.kept, "lost": dict(self.lost)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        if state:
            self.start = state["start"]
            self.kept = state["kept"]
            self.lost = dict(state["lost"])


def write_samples(path: Path, batch: Any, at: At) -> str:
    """All ranks come here together: write down which samples of which step met; gives the names of
    some."""
    batches = batch if isinstance(batch, Mapping) else {"train": batch}
    keys = {
        name: [key for keys in collectives.gather_objects(list(each.keys)) for key in keys]
        for name, each in batches.items()
    }
    if collectives.rank() == 0:
        text = json.dumps({"stage": at.stage, "step": at.step, "keys": keys}, indent=1)
        write_atomic(path, lambda temporary: temporary.write_text(text))
    return ", ".join(next(iter(keys.values()))[:3])
