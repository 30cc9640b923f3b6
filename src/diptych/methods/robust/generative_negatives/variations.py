"""Variations of images: several versions of one image, each with another thing in the place of an
item, and captions that say so.

Dimensions: n variations, H x W pixels.
"""

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from diptych.data.matcher import replaced
from diptych.data.sample import Sample

THRESHOLD = 10.0
"""The deviation, of 255, above which a pixel has changed."""


class VariationGenerator(Protocol):
    """Makes variations of samples.

    `items(sample)` are what can be replaced; `generator(sample, item, count)` returns `count`
    samples with an image of equal size, captions, and the texts of the roles `short` and `desc`
    that say what took the item's place. `name` tells generators apart.
    """

    name: str

    def items(self, sample: Sample) -> Sequence[str]: ...

    def __call__(self, sample: Sample, item: str, count: int) -> Sequence[Sample]: ...


def image_variation_area(images: np.ndarray, threshold: float = THRESHOLD) -> float:
    """Return the share of pixels that differ between variations, in percent.

        IVA = 100 · mean over pixels of [ mean over channels of std over variations > threshold ]

    images (n, H, W, 3) of bytes, all of one size; the deviation is that of the population.

    >>> images = np.zeros((4, 2, 2, 3))
    >>> images[0, 0, 0] = 40  # a deviation of 17.3
    >>> images[1, 1, 1] = 10, 20, 30  # of 8.7 on average
    >>> image_variation_area(images)
    25.0
    """
    deviation = np.asarray(images, np.float64).std(axis=0).mean(axis=-1)
    return 100 * float((deviation > threshold).mean())


def varied_captions(captions: Sequence[str], item: str, short: str, whole: str) -> list[str]:
    """Return captions in which the short description of a variation stands for the item.

    Captions that do not mention the item are left out. If all are, the caption is "`whole` and
    `short`".

    >>> varied_captions(["A cat sleeps.", "an animal"], "cat", "a red fox", "a cat on a mat")
    ['a red fox sleeps']
    """
    found = [replaced(caption, item, short) for caption in captions]
    kept = [cleaned(caption) for caption in found if caption is not None]
    return kept or [cleaned(replaced(whole, item, short) or f"{whole} and {short}")]


def cleaned(caption: str, most: int = 50) -> str:
    """Return a caption in lower case, without .!"()*#:;~, with single spaces, of at most `most`
    words.

    >>> cleaned('A "Red"  fox; sleeping (here).')
    'a red fox sleeping here'
    """
    words = re.sub(r"[.!\"()*#:;~]", " ", caption.lower()).split()
    return " ".join(words[:most])
