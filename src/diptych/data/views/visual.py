"""Views of texts of which some speak of no picture: whether one does, and a picture where it does.

Dimensions: B samples, S pixels a side.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diptych.data.sample import BadSample, Sample
from diptych.data.views.pictures import PictureView


def is_visual(sample: Sample, label: str | None = None, role: str = "main") -> bool:
    """Whether a sample's texts are visual: its label is 1, or without a label named, it has a picture of `role`.

    Raises BadSample("no-label") where the label is neither 0 nor 1: nobody could say, so it is no example of either.
    """
    if label is None:
        return role in sample.images
    value = sample.labels.get(label, -1)
    if value not in (0, 1):
        raise BadSample("no-label", f"label {label!r} is {value}, not 0 or 1")
    return bool(value)


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

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]:
        return {self.gives[0]: is_visual(sample, self.label)}


@dataclass(frozen=True, kw_only=True)
class OwnPictureView(PictureView):
    """The picture of a sample whose texts are visual, as of `PictureView`; of others zeros, whatever picture they have.

    Raises BadSample("no-picture") where a label calls visual what has no picture, and as `is_visual` does.
    """

    label: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"images.{self.role}", *([] if self.label is None else [f"labels.{self.label}"]))

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]:
        if is_visual(sample, self.label, self.role):
            return super().__call__(sample, rng, progress)
        size = self.preprocess.size
        return {self.gives[0]: torch.zeros(self.count, 3, size, size, dtype=torch.uint8)}
