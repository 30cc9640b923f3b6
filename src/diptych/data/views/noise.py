"""A view of random noise, which does not depend on worker, rank or batch size.

Dimensions: B samples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diptych.data.sample import Sample


@dataclass(frozen=True, kw_only=True)
class NoiseView:
    """Standard normal noise (B, *shape), drawn anew for each sample and epoch; zeros outside
    training.

    With `steps`, it also gives the inputs of a denoiser: a time (B,) in 0 … `steps` - 1, and
    whether the text is dropped (B,), true for a share `drop` of the samples.
    """

    shape: tuple[int, ...]
    steps: int | None = None
    drop: float = 0.0
    reads: tuple[str, ...] = ()

    @property
    def gives(self) -> tuple[str, ...]:
        return "fields.noise", *(("fields.time", "fields.dropped") if self.steps else ())

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        drawn = torch.from_numpy(rng.standard_normal(self.shape, dtype=np.float32))
        found: list[Any] = [torch.zeros(self.shape) if progress is None else drawn]
        if self.steps:
            found += [int(rng.integers(self.steps)), bool(rng.uniform() < self.drop)]
        return dict(zip(self.gives, found, strict=True))
