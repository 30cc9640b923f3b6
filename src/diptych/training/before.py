"""The operations of what a stage computes of each sample before its first step, counted on tensors
without data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diptych.data.batch import Batch
from diptych.data.loader import Loader
from diptych.data.plan import Fixed
from diptych.data.sample import Source
from diptych.data.views import View
from diptych.methods.base import At, Method, Recipe, Stage
from diptych.training.fake import Fused, fake_batch, flop_counter
from diptych.training.prepare import Run

SAMPLES = 4
"""The number of samples on which it is counted."""


class _Mapped(Run):
    """A run whose `map` counts the operations `flops` of a sample, and returns zeros."""

    def __init__(self, fake: FakeTensorMode, method: Method, sources: Mapping[str, Source], at: At):
        super().__init__(method, sources, at, torch.device("cpu"))
        self.fake = fake
        self.flops = 0.0

    def map(
        self,
        fn: Callable[[Batch], Mapping[str, Tensor]],
        views: Sequence[View],
        source: Source,
        *,
        batch_size: int = SAMPLES,
        mapped: str | None = None,
    ) -> dict[str, Any]:
        batch = next(iter(Loader(source, views, Fixed(), min(SAMPLES, len(source))).epoch(0)))
        small = fake_batch(self.fake, batch)
        with self.fake, Fused(), torch.no_grad(), flop_counter() as counter:
            found = fn(small)
        self.flops += counter.get_total_flops() / len(batch)
        return {
            name: np.zeros((len(source), *value.shape[1:]), np.float32)
            for name, value in found.items()
        }


def before(
    fake: FakeTensorMode,
    method: Method,
    stage: Stage,
    sources: Mapping[str, Source],
    batch: Any,
    recipe: Recipe,
) -> float | None:
    """Return the operations of a sample before a stage that reads neither images nor texts, over the
    recipe's epochs; None if they cannot be counted without data."""
    parts = batch.values() if isinstance(batch, Mapping) else [batch]
    if stage.prepare is None or any(part.images or part.texts for part in parts):
        return 0.0
    run = _Mapped(fake, method, sources, At(0, 1000, 0, 0, stage.name))
    try:
        stage.prepare(run)
    except Exception:  # whatever a method does with data that are not there
        return None
    own = replace(recipe, **stage.recipe)
    return run.flops if own.steps or stage.every == "epoch" else run.flops / max(1.0, own.epochs)
