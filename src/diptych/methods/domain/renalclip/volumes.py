"""Views of volumes: random crops, affine changes within slices, and intensities.

Dimensions: B samples, V views, D slices, H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.sample import BadSample, Sample
from diptych.data.volumes import VolumePreprocess, volume_of
from diptych.spec import AtLeast, NotNegative, Share


@dataclass(frozen=True, kw_only=True)
class VolumeAugment:
    """How a training volume is augmented, after scaling and the window.

    - All slices are rotated by up to `turn` degrees, shifted by up to a share `shift` of their side
      along rows and columns, and scaled by a factor in 1 ± `scale`, together.
    - The crop is random.
    - Intensities are multiplied by a factor in 1 ± `intensity`, shifted by as much, and, with
      probability `gamma_share`, raised to a power that is log-uniform in 1 / `gamma` … `gamma`.
    - `flip` mirrors half of the volumes, left to right.
    """

    turn: NotNegative = 10.0
    shift: Share = 1 / 14
    scale: Share = 0.1
    intensity: Share = 0.1
    gamma: Annotated[float, AtLeast(1)] = 2.0
    gamma_share: Share = 0.5
    flip: bool = False

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """An augmented volume (1, D, H, W) in 0 … 1."""
        x = self._moved(x, rng)
        factor = 1 + self.intensity * rng.uniform(-1, 1)
        x = (factor * x + self.intensity * rng.uniform(-1, 1)).clamp(0, 1)
        power = self.gamma ** rng.uniform(-1, 1)
        return x**power if rng.random() < self.gamma_share else x

    def _moved(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """The volume after the affine change; its slices are the channels of one image."""
        angle = np.deg2rad(self.turn * rng.uniform(-1, 1))
        scale = 1 / (1 + self.scale * rng.uniform(-1, 1))
        right, down = 2 * self.shift * rng.uniform(-1, 1, 2)
        mirror = -1 if self.flip and rng.random() < 0.5 else 1
        cos = scale * np.cos(angle)
        sin = scale * np.sin(angle)
        if (cos, sin, right, down, mirror) == (1, 0, 0, 0, 1):
            return x
        matrix = torch.tensor([[mirror * cos, -sin, right], [mirror * sin, cos, down]])
        grid = F.affine_grid(matrix[None].to(x.dtype), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


@dataclass(frozen=True, kw_only=True)
class VolumeView:
    """The volume of a role (B, 1, 1, D, H, W), float32, in training cropped at random and changed
    by `augment`.

    In training it is one of the roles `phases` that the sample has, drawn at random, if it has any.

    Raises BadSample if the sample has none, or it cannot be read.
    """

    preprocess: VolumePreprocess
    name: str = "main"
    role: str = "main"
    phases: Sequence[str] = ()
    augment: VolumeAugment | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"images.{self.role}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"images.{self.name}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        training = progress is not None
        role = drawn_phase([sample], self.phases if training else (), rng) or self.role
        if role not in sample.images:
            raise BadSample("no-image", f"no volume {role!r}")
        augment = self.augment if training else None
        return {self.gives[0]: prepared(sample, role, self.preprocess, augment, rng)[None]}


def drawn_phase(
    samples: Sequence[Sample], phases: Sequence[str], rng: np.random.Generator
) -> str | None:
    """One of the phases that all samples have, drawn; None if there is none."""
    shared = [name for name in phases if all(name in each.images for each in samples)]
    return shared[int(rng.integers(len(shared)))] if shared else None


def prepared(
    sample: Sample,
    role: str,
    preprocess: VolumePreprocess,
    augment: VolumeAugment | None,
    rng: np.random.Generator,
) -> Tensor:
    """The volume (1, D, H, W) of a role, cropped at random and changed if there is an `augment`."""
    volume = volume_of(sample.images[role])
    if augment is None:
        return preprocess(volume)
    whole = augment(preprocess.whole(volume), rng)
    slices, size = preprocess.full
    top = int(rng.integers(slices - preprocess.slices + 1))
    row, column = rng.integers(size - preprocess.size + 1, size=2).tolist()
    return preprocess.cropped(whole, top, row, column)
