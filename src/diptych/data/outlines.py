"""Class masks from outlines: polygons, and run lengths (RLE), as COCO's annotations have them.

Dimensions: H x W pixels, n corners.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.data.decode import MAX_PIXELS
from diptych.data.images import VOID
from diptych.data.sample import BadSample


@dataclass(frozen=True, slots=True)
class Outline:
    """A region of one class: a polygon's `corners` (n, 2), x and y in pixels, or `runs` of pixels.

    Runs go down the columns, from left to right. The first run is outside of the region, the next
    one inside, and so on.
    """

    number: int
    corners: np.ndarray | None = None
    runs: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class OutlineMask:
    """A class mask of `size` (W, H), painted on access: later outlines over earlier ones, `VOID`
    outside of all.

    >>> square = Outline(7, corners=np.array([[1, 0], [3, 0], [3, 1], [1, 1]]))
    >>> np.asarray(OutlineMask((4, 2), [square]).decode()).tolist()
    [[255, 7, 7, 255], [255, 255, 255, 255]]
    """

    size: tuple[int, int]
    outlines: Sequence[Outline]

    def read(self) -> bytes:
        """The mask as a PNG file."""
        buffer = io.BytesIO()
        self.decode().save(buffer, "PNG")
        return buffer.getvalue()

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The classes of all pixels, at full size. Raises BadSample("bomb") for too large a
        size."""
        width, height = self.size
        if width * height > MAX_PIXELS:
            raise BadSample("bomb", f"{width} x {height} pixels; the limit is {MAX_PIXELS:,}")
        plane = np.full((height, width), VOID, np.uint8)
        for outline in self.outlines:
            if outline.runs is not None:
                plane[from_runs(outline.runs, (height, width))] = outline.number
            elif outline.corners is not None:
                plane[inside(outline.corners, (height, width))] = outline.number
        return Image.fromarray(plane)


def inside(corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) whose centres lie inside a polygon (n, 2), by the even-odd rule.

    >>> inside(np.array([[0, 0], [3, 0], [0, 3]]), (3, 3)).astype(int).tolist()
    [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    height, width = shape
    start = np.asarray(corners, np.float64)
    end = np.roll(start, -1, axis=0)
    down = start[:, 1] < end[:, 1]
    upper = np.where(down[:, None], start, end)
    lower = np.where(down[:, None], end, start)
    # An edge crosses the centres of these rows; a horizontal one crosses none.
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(int)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(int)
    count = last - first
    edge = np.repeat(np.arange(len(start)), count)
    row = np.arange(len(edge)) + np.repeat(first + count - np.cumsum(count), count)
    share = (row + 0.5 - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
    x = upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
    crossings = np.zeros((height, width + 1), np.uint8)
    np.add.at(crossings, (row, column), 1)
    return (np.cumsum(crossings[:, :width], axis=1, dtype=np.uint8) & 1).astype(bool)


def from_runs(runs: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) of a region from its runs down the columns, which add up to H · W.

    >>> from_runs(np.array([1, 3, 2]), (2, 3)).astype(int).tolist()
    [[0, 1, 0], [1, 1, 0]]
    """
    height, width = shape
    filled = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return filled.reshape(width, height).T
