"""Noise that a sample meets, drawn as every other random choice: never by worker, rank or batch size.

Dimensions: B samples, S x S pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diptych.data.sample import Sample


@dataclass(frozen=True, kw_only=True)
class NoiseView:
    """Normal noise (B, 3, S, S), a time (B,) of 0 … `steps` - 1, and whether the text is left out (B,), in a share
    `drop` of the samples."""

    size: int
    steps: int
    drop: float = 0.0

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def gives(self) -> tuple[str, ...]:
        return "fields.noise", "fields.time", "fields.dropped"

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]:
        noise = torch.from_numpy(rng.standard_normal((3, self.size, self.size), dtype=np.float32))
        time, dropped = int(rng.integers(self.steps)), bool(rng.uniform() < self.drop)
        return {"fields.noise": noise, "fields.time": time, "fields.dropped": dropped}


@dataclass(frozen=True, kw_only=True)
class NormalView:
    """Independent standard normal numbers (B, *shape), drawn anew each time that a sample is seen; zeros outside
    training. So noise, as all that is random, is a function of (seed, epoch, position), whatever ranks and batches."""

    shape: tuple[int, ...]
    name: str = "normal"
    reads: tuple[str, ...] = ()

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"fields.{self.name}",)

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]:
        if progress is None:
            return {self.gives[0]: torch.zeros(self.shape)}
        return {self.gives[0]: torch.from_numpy(rng.standard_normal(self.shape, dtype=np.float32))}
