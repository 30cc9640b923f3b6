"""Masks from outlines: polygons, and run lengths (RLE), as COCO's annotations have them.

A class mask has the outlines of all objects of an image, an object mask those of one.

Dimensions: H x W pixels, n corners.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.decode import MAX_PIXELS
from diptych.data.masks import VOID, MadeMask
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
class OutlineMask(MadeMask):
    """A mask of `size` (W, H), painted on access: later outlines over earlier ones, `ground`
    outside of all. An object mask has the ground 0.

    >>> square = Outline(7, corners=np.array([[1, 0], [3, 0], [3, 1], [1, 1]]))
    >>> np.asarray(OutlineMask((4, 2), [square]).decode()).tolist()
    [[255, 7, 7, 255], [255, 255, 255, 255]]
    """

    size: tuple[int, int]
    outlines: Sequence[Outline]
    ground: int = VOID

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The classes of all pixels, at full size. Raises BadSample("bomb") for too large a
        size."""
        width, height = self.size
        if width * height > MAX_PIXELS:
            raise BadSample("bomb", f"{width} x {height} pixels; the limit is {MAX_PIXELS:,}")
        plane = np.full((height, width), self.ground, np.uint8)
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


@dataclass(frozen=True, slots=True)
class ObjectMask(MadeMask):
    """The mask of the object with a `number` in the numbers of all objects of an image (H, W)."""

    numbers: np.ndarray
    number: int

    def decode(self, at_least: int | None = None) -> Image.Image:
        """1 in the object, 0 outside of it, at full size."""
        return Image.fromarray((self.numbers == self.number).astype(np.uint8))


def to_runs(inside: np.ndarray) -> np.ndarray:
    """The runs of a region's pixels (H, W) bool down the columns; the first one is outside.

    >>> to_runs(np.array([[False, True, False], [True, True, False]])).tolist()
    [1, 3, 2]
    """
    flat = inside.T.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(ends, prepend=0, append=flat.size)
    return np.concatenate([[0], runs]) if flat.size and flat[0] else runs


_BITS = 5  # of a letter
_FIRST = 48  # the letter of 0


def runs_to_text(runs: np.ndarray) -> str:
    """Runs as COCO compresses them: from the fourth on, each as its difference from the last but one,
    in letters of five bits, the low ones first.

    >>> runs_to_text(np.array([1, 3, 2]))
    '132'
    """
    differences = np.asarray(runs, np.int64).copy()
    differences[3:] -= np.asarray(runs, np.int64)[1:-2]
    letters = bytearray()
    for value in differences.tolist():
        more = True
        while more:
            low = value & 31
            value >>= _BITS
            more = value != (-1 if low & 16 else 0)
            letters.append(_FIRST + low + 32 * more)
    return letters.decode("ascii")


def text_to_runs(text: str) -> np.ndarray:
    """The runs that COCO compressed into a text. Raises ValueError for another text.

    >>> text_to_runs("132").tolist()
    [1, 3, 2]
    """
    letters = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - _FIRST
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise ValueError("a text that holds no runs")
    last = np.flatnonzero(letters < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:
        raise ValueError("a run longer than any image")
    shift = _BITS * (np.arange(len(letters)) - np.repeat(first, lengths))
    runs = np.add.reduceat((letters & 31) << shift, first)
    runs -= (letters[last] & 16 > 0) << (_BITS * lengths)  # negative ones
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def checked_runs(counts: Any, size: tuple[int, int]) -> np.ndarray:
    """The runs (int32) of COCO's `counts`, a list or a text, in an image of `size` (W, H). Raises
    ValueError for runs that do not add up to it."""
    runs = text_to_runs(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    if runs.ndim != 1 or not len(runs) or runs.min() < 0 or runs.sum() != size[0] * size[1]:
        raise ValueError("runs that do not add up to the image")
    return runs.astype(np.int32)


def from_rle(value: Mapping[str, Any]) -> OutlineMask:
    """The object mask of COCO's `{"size": [H, W], "counts": …}`. Raises KeyError, TypeError or
    ValueError for anything else.

    >>> np.asarray(from_rle({"size": [2, 3], "counts": [1, 3, 2]}).decode()).tolist()
    [[0, 1, 0], [1, 1, 0]]
    """
    height, width = (int(side) for side in value["size"])
    if not (0 < height * width <= MAX_PIXELS and height > 0):
        raise ValueError("no size of an image")
    runs = checked_runs(value["counts"], (width, height))
    return OutlineMask((width, height), [Outline(1, runs=runs)], ground=0)


def to_rle(inside: np.ndarray) -> dict[str, Any]:
    """A region's pixels (H, W) as COCO's `{"size": [H, W], "counts": TEXT}`.

    >>> to_rle(np.array([[False, True, False], [True, True, False]]))
    {'size': [2, 3], 'counts': '132'}
    """
    return {"size": list(inside.shape), "counts": runs_to_text(to_runs(inside))}
