"""A canvas of numbers: distances, soft shapes and noise at the places of an image's pixels.

Places are (x, y) in [-1, 1], y downwards.

Dimensions: S x S pixels.
"""

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.float64]
"""One number a pixel (S, S)."""


class Canvas:
    """The places of an image's pixels, and its random numbers."""

    def __init__(self, size: int, rng: np.random.Generator):
        middle = (np.arange(size) + 0.5) / size * 2 - 1
        self.size = size
        self.rng = rng
        self.x, self.y = np.meshgrid(middle, middle)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> Grey:
        """The distance from a centre in radii: below 1 inside."""
        return np.hypot((self.x - cx) / rx, (self.y - cy) / ry)

    def inside(self, distance: Grey, limit: float = 1.0, soft: float = 0.15) -> Grey:
        """1 where a distance is below the limit, 0 above it, with a soft edge."""
        return np.clip((limit - distance) / soft + 0.5, 0, 1)

    def smooth(self, cells: int) -> Grey:
        """Noise in [-1, 1] that is linear between cells x cells random values."""
        grid = self.rng.uniform(-1, 1, (cells, cells))
        at = np.linspace(0, cells - 1, self.size)
        low = np.minimum(at.astype(np.int64), cells - 2)
        share = at - low
        rows = grid[low] * (1 - share)[:, None] + grid[low + 1] * share[:, None]
        return rows[:, low] * (1 - share) + rows[:, low + 1] * share

    def grain(self, strength: float) -> Grey:
        """Independent noise."""
        return strength * self.rng.normal(size=(self.size, self.size))

    def shape(self, kind: str, x: float, y: float, radius: float) -> Grey:
        """The mask of a spot, a cloud, a band or dots at a place."""
        if kind == "spot":
            return self.inside(self.ellipse(x, y, radius, radius))
        if kind == "cloud":
            ragged = self.ellipse(x, y, 1.7 * radius, 1.4 * radius) + 0.45 * self.smooth(8)
            return 0.75 * self.inside(ragged, soft=0.5)
        if kind == "band":
            bent = np.abs(self.y - y - 0.25 * (self.x - x) ** 2) / (0.45 * radius)
            return self.inside(np.maximum(bent, np.abs(self.x - x) / (2.2 * radius)))
        mask = np.zeros_like(self.x)
        for dx, dy in self.rng.uniform(-1.2, 1.2, (7, 2)) * radius:
            dot = self.inside(self.ellipse(x + dx, y + dy, 0.3 * radius, 0.3 * radius))
            mask = np.maximum(mask, dot)
        return mask
