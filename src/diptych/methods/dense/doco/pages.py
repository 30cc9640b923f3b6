"""Pages with the boxes of their words, and what is wrong with some.

A box is in pixels of the page. Files of OCR give shares (0 … 1) or LayoutLM's units (0 … 1000) as well,
which would train the tower on patches where nothing is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.images import size_of
from diptych.data.sample import BadSample, Box, Sample, Source
from diptych.data.views import RegionView
from diptych.errors import InputError

_BEYOND = 1.05
"""The share of a page's side beyond which a box is not there by rounding."""
_LOOKED = 32
"""Samples that are looked at before training."""


@dataclass(frozen=True, kw_only=True)
class PageView(RegionView):
    """A `RegionView` of the boxes with their texts, the words of a page.

    Raises BadSample("no-words") for boxes of which none has a text, ("box-units") for boxes in other
    units than pixels, and ("blank-page") for a page on which nothing is written though it has boxes. A
    page without boxes has no objects.
    """

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        found = super().__call__(sample, rng, progress)
        pixels = found["images.main"]
        whole = self.jitter is None or progress is None
        if whole and found["fields.regions.there"].any() and pixels.max() == pixels.min():
            raise BadSample("blank-page", f"{sample.key} has words, and its image shows none")
        return found

    def _regions(
        self, sample: Sample, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[str], list[Box]]:
        boxes = _boxes(sample)
        if boxes and not any(box.text.strip() for box in boxes):
            raise BadSample("no-words", f"{sample.key} has boxes, and none of them has a text")
        if boxes and (why := wrong_units(boxes, size)):
            raise BadSample("box-units", f"{sample.key}: {why}")
        return super()._regions(sample, size, rng)


def _boxes(sample: Sample) -> list[Box]:
    return [box for box in sample.boxes if box.image == "main"]


def wrong_units(boxes: Sequence[Box], size: tuple[int, int]) -> str:
    """Why boxes cannot be in pixels of a page of this (width, height); "" if they can.

    >>> wrong_units([Box(xyxy=(0.1, 0.1, 0.5, 0.2))], (800, 600))
    'its boxes are shares, 0 to 1, and not pixels; multiply them by width and height'
    >>> wrong_units([Box(xyxy=(10, 10, 80, 20))], (800, 600))
    ''
    """
    sides = np.array([box.xyxy for box in boxes], np.float64)
    if sides.max() <= 1 < min(size):
        return "its boxes are shares, 0 to 1, and not pixels; multiply them by width and height"
    beyond = (sides[:, 2:] > np.array(size) * _BEYOND).any(1)
    if beyond.mean() > 0.5:
        most = sides[:, 2:].max(0)
        return (
            f"most of its boxes reach beyond the page of {size[0]} x {size[1]} pixels, up to {most[0]:g}, {most[1]:g}; "
            "give boxes in pixels of this image"
        )
    return ""


def check_units(source: Source) -> None:
    """Raise InputError if the boxes of the first pages that have some are in other units than pixels on
    all of them."""
    reasons = []
    for index in range(min(len(source), _LOOKED)):
        try:
            sample = source[index]
            boxes = _boxes(sample)
            if boxes and "main" in sample.images:
                reasons.append(wrong_units(boxes, size_of(sample.images["main"])))
        except BadSample:
            continue
    if reasons and all(reasons):
        raise InputError(f"{source.name}: {reasons[0]}")
