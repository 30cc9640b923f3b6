"""Views of texts of which some speak of no image: whether one does, and an image where it does.

Dimensions: B samples, S pixels a side.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diptych.data.sample import Sample, is_visual
from diptych.data.views.images import ImageView


@dataclass(frozen=True, kw_only=True)
class VisualView:
    """Whether the texts are visual, as `is_visual` says, a truth a sample (B,)."""

    label: str | None = None
    name: str = "visual"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("images.main" if self.label is None else f"labels.{self.label}",)

    @property
    def optional(self) -> tuple[str, ...]:
        return self.reads if self.label is None else ()

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"fields.{self.name}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        return {self.gives[0]: is_visual(sample, self.label)}


@dataclass(frozen=True, kw_only=True)
class OwnImageView(ImageView):
    """The image of a sample whose texts are visual, as of `ImageView`; of others zeros, whatever
    image they have.

    Raises BadSample("no-image") where a label calls visual what has no image, and as `is_visual`
    does.
    """

    label: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"images.{self.role}", *([] if self.label is None else [f"labels.{self.label}"]))

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        if is_visual(sample, self.label, self.role):
            return super().__call__(sample, rng, progress)
        size = self.preprocess.size
        return {self.gives[0]: torch.zeros(self.count, 3, size, size, dtype=torch.uint8)}
