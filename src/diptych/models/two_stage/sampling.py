"""Which boxes are learnt from: a random choice that depends on the sample alone, so that it is the same
however a batch is cut and on however many ranks.

Dimensions: P boxes or positions of an image, R boxes of it in the data.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from diptych.data.sample import Sample


@dataclass(frozen=True, kw_only=True)
class SeedView:
    """A random number (B,), drawn anew for each sample and epoch; 0 outside training."""

    reads: tuple[str, ...] = ()
    gives: tuple[str, ...] = ("fields.seed",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        return {"fields.seed": 0 if progress is None else int(rng.integers(2**31))}


def matched(matcher: Matcher, own: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The number (P,) of the box (R, 4) of the data that each of the boxes (P, 4) is for, -1 for none and
    -2 for one between the thresholds, and that box (P, 4)."""
    if not len(own):
        return torch.full((len(boxes),), -1, device=boxes.device), boxes
    match = matcher(box_iou(own, boxes))
    return match, own[match.clamp(min=0)]


def sampled(labels: Tensor, count: int, share: float, seed: int) -> Tensor:
    """Choose at most `count` of some (P,): of those labelled 1 at most this `share`, and the rest of those
    labelled 0. Returns which (P,) bool.

    >>> sampled(torch.tensor([1, 1, 0, 0, -1]), 3, 0.4, seed=0).sum()
    tensor(3)
    """
    noise = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    found = torch.zeros_like(labels, dtype=torch.bool)
    left = count
    for label, most in ((1, int(count * share)), (0, count)):
        rows = (labels == label).nonzero()[:, 0]
        chosen = rows[noise[rows].argsort()[: min(most, left)]]
        found[chosen] = True
        left -= len(chosen)
    return found
