"""One caption of each sample, drawn before training and kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.sample import Sample
from diptych.data.views import TextView
from diptych.rng import generator

DRAWN = "drawn"
"""The column with a number of each sample, from which its caption is drawn."""


@dataclass(frozen=True, kw_only=True)
class OneCaption(TextView):
    """Texts as those of `TextView`, drawn by the sample's label `drawn`: the same ones in every epoch.

    Outside training they are the first ones.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, f"labels.{DRAWN}")

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        return super().__call__(sample, generator(int(sample.labels[DRAWN]), "caption"), progress)
