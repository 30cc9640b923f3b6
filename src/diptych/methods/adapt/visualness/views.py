"""Views of texts that may have no image: whether a text is visual, and an image for those that are.

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
    """Whether the texts are visual, according to `is_visual`: one boolean a sample (B,)."""

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
    """The image of a sample with visual texts, as in `ImageView`; zeros for other samples, whether
    or not they have an image.

    Raises BadSample("no-image") if a label marks a sample as visual that has no image, and as
    `is_visual` does.
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
        return {self.gives[0]: torch.zeros(self.count, *self.preprocess.shape, dtype=torch.uint8)}
