"""The images of `reports`: a chest in grey, with findings in its lungs.

Places are (x, y) in [-1, 1], y downwards. Sides are the patient's: the left lung is on the right of
the image.

Dimensions: S x S pixels.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diptych.data.worlds._canvas import Canvas, Grey

LOOKS = {
    "nodule": ("spot", 0.95),
    "pneumonia": ("cloud", 0.9),
    "effusion": ("band", 0.95),
    "pneumothorax": ("hole", 0.0),
    "calcification": ("dots", 1.0),
    "catheter": ("line", 1.0),
}
"""The shape and the brightness of each kind."""
_RADII = (0.11, 0.19)


class Finding(Protocol):
    """A kind, at a place of a lung."""

    @property
    def kind(self) -> str: ...
    @property
    def place(self) -> tuple[float, float]: ...
    @property
    def large(self) -> bool: ...


def draw(
    findings: Sequence[Finding], size: int, seed: int
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """An image (S, S, 3), and where each finding is (S, S)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    gain = rng.uniform(0.85, 1.1)
    canvas = Canvas(size, rng)
    image = _chest(canvas)
    where = []
    for finding in findings:
        shape, brightness = LOOKS[finding.kind]
        mask = _mask(canvas, shape, *finding.place, _RADII[finding.large])
        image = image * (1 - mask) + brightness * mask
        where.append(mask >= 0.4)
    grey = np.rint(255 * np.clip(gain * image, 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), where


def box_of(where: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """The box (x0, y0, x1, y1) of the pixels that are set.

    >>> box_of(np.array([[False, False], [False, True]]))
    (1.0, 1.0, 2.0, 2.0)
    """
    rows = np.flatnonzero(where.any(1))
    columns = np.flatnonzero(where.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _chest(c: Canvas) -> Grey:
    lungs = np.minimum(c.ellipse(-0.47, 0, 0.4, 0.85), c.ellipse(0.47, 0, 0.4, 0.85))
    ribs = 0.05 * np.cos(11 * (c.y + 0.25 * np.abs(c.x)))
    spine = 0.2 * c.inside(np.abs(c.x) / 0.08)
    return 0.6 - 0.35 * c.inside(lungs) + ribs + spine + 0.05 * c.smooth(5) + c.grain(0.02)


def _mask(c: Canvas, shape: str, x: float, y: float, radius: float) -> Grey:
    if shape == "hole":
        return c.inside(c.ellipse(x, y, 0.9 * radius, 1.6 * radius))
    if shape == "line":
        along = np.abs(c.y - y) / (1.9 * radius)
        return c.inside(np.maximum(np.abs(c.x - x) / 0.035, along), soft=0.5)
    return c.shape(shape, x, y, radius)
