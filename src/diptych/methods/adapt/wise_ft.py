"""WiSE-FT: Robust fine-tuning of zero-shot models (Wortsman et al., CVPR 2022).

Full fine-tuning on labelled images or on pairs, then an interpolation between the weights before and after:

    weights = (1 - alpha) · zero-shot + alpha · fine-tuned

This keeps most of the gain on the new data and loses little of the model's zero-shot ability. The
running statistics of batch norms are interpolated too. Inference: as zero-shot, with any names. The
suite `wise` evaluates all alphas of a run of `fine_tune`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diptych.methods.adapt import fine_tune
from diptych.methods.base import Stage
from diptych.methods.make import Make
from diptych.spec import Share
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Frozen, between

card = {
    "title": "Robust fine-tuning of zero-shot models",
    "year": 2022,
    "kind": "method",
    "entry": "WiSEFT",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(fine_tune.Config):
    """`alpha` is the share of the fine-tuned weights."""

    alpha: Share = 0.5


class _Interpolated:
    """Adds the interpolation to a fine-tuning method; `encoder` is what it tunes."""

    config: Any
    encoder: DualEncoder

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)  # type: ignore[call-arg]  # of the method beside it
        self.before = Frozen(copy.deepcopy(self.encoder), "the model before")

    def stages(self) -> Sequence[Stage]:
        stages = super().stages()  # type: ignore[misc]
        return (*stages, Stage(name="mix", prepare=self.mix, optimize=False))

    @torch.no_grad()
    def mix(self, run: Any) -> None:
        """Interpolate the weights between those before and those after fine-tuning."""
        encoder = self.encoder
        encoder.load_state_dict(
            between(self.before.module.state_dict(), encoder.state_dict(), self.config.alpha)
        )


class WiSEFTOnPairs(_Interpolated, fine_tune.FineTuneOnPairs):
    """Fine-tuning on pairs, then interpolation with the weights before."""


class WiSEFT(_Interpolated, fine_tune.FineTune):
    """Fine-tuning on classes, then interpolation with the weights before."""

    Config = Config
    on_pairs = WiSEFTOnPairs
