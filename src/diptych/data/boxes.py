"""Names and attributes of boxes, and their targets on a grid for a detection head over the positions of an image.

Dimensions: n boxes of an image, A attributes, h x w cells.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from diptych.data.matcher import Matcher
from diptych.data.sample import BadSample, Box, Sample, Source
from diptych.errors import InputError


def thing_of(box: Box, classes: Sequence[str]) -> str:
    """The name of a box's content: its class name if `classes` are given, else its text; "" if it
    has none.

    >>> thing_of(Box(xyxy=(0, 0, 1, 1), label=1), ("cat", "dog")), thing_of(Box(xyxy=(0, 0, 1, 1), text="a cup"), ())
    ('dog', 'a cup')
    """
    if not classes:
        return box.text.strip()
    return classes[box.label] if 0 <= box.label < len(classes) else ""


def things(source: Source) -> tuple[str, ...]:
    """The names in a source's boxes: its box classes, else all texts of boxes in alphabetical
    order.

    The texts are read once, without decoding images. Raises InputError if there are none.
    """
    classes = source.schema()["boxes"].classes
    if classes:
        return classes
    found: set[str] = set()
    for index in range(len(source)):
        try:
            found |= {thing_of(box, ()) for box in source[index].boxes}
        except BadSample:
            continue
    if not found - {""}:
        raise InputError(
            f"the boxes of {source.name} have neither classes nor texts; name what is in them"
        )
    return tuple(sorted(found - {""}))


def shares(
    sample: Sample, size: tuple[int, int], classes: Sequence[str], *, named: bool = True
) -> tuple[np.ndarray, list[str]]:
    """The boxes (n, 4) of the main image, relative to its `size` and clipped to it, and their
    names.

    A box is x0, y0, x1, y1 as shares of width and height. Boxes wholly outside the image are left
    out, and those without a name if `named`.
    """
    boxes = []
    names = []
    for box, xyxy in _clipped(sample, size):
        name = thing_of(box, classes)
        if name or not named:
            boxes.append(xyxy)
            names.append(name)
    return np.array(boxes, np.float32).reshape(-1, 4), names


def inside(
    xyxy: Sequence[float], size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The sides of a box in pixels as shares of an image of `size` (width, height); None for a box that
    has no area or lies outside the image by more than half a pixel.

    >>> inside((0, 5, 20.4, 10), (20, 10)), inside((0, 5, 21, 10), (20, 10))
    ((0.0, 0.5, 1.0, 1.0), None)
    """
    width, height = size
    x0, y0, x1, y1 = xyxy
    within = -0.5 <= x0 < x1 <= width + 0.5 and -0.5 <= y0 < y1 <= height + 0.5
    if not within:  # NaN is not within either
        return None
    left, right = (min(max(x / width, 0.0), 1.0) for x in (x0, x1))
    top, bottom = (min(max(y / height, 0.0), 1.0) for y in (y0, y1))
    return (left, top, right, bottom) if left < right and top < bottom else None


def boxes_of(
    sample: Sample, size: tuple[int, int], classes: Sequence[str], *, named: bool = True
) -> list[Box]:
    """The boxes of `shares`, in the same order."""
    boxes = [box for box, _ in _clipped(sample, size)]
    return [box for box in boxes if thing_of(box, classes) or not named]


def object_mask(box: Box, size: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) bool of the object in a box of an image of a `size` (W, H).

    Raises BadSample: "no-mask" for a box without a mask, "mask-size" for one of another size than the
    image.
    """
    if box.mask is None:
        raise BadSample("no-mask", f"the box of {box.text or box.label!r} has no mask")
    plane = np.asarray(box.mask.decode()) > 0
    if plane.shape != (size[1], size[0]):
        height, width = plane.shape
        raise BadSample(
            "mask-size",
            f"the mask of {box.text or box.label!r} is {width} x {height}, its image {size[0]} x {size[1]}",
        )
    return plane


def attributes_of(
    sample: Sample, size: tuple[int, int], classes: Sequence[str], matcher: Matcher
) -> np.ndarray:
    """Which of the matcher's names (A) each box of the main image has (n, A) bool: its class, and those
    that its text mentions.

    The boxes are those of `shares` without `named`, in the same order.
    """
    rows = []
    for box, _ in _clipped(sample, size):
        held = {*matcher.find(box.text), thing_of(box, classes).lower()}
        rows.append([name in held for name in matcher.names])
    return np.array(rows, bool).reshape(-1, len(matcher.names))


def _clipped(sample: Sample, size: tuple[int, int]) -> Iterator[tuple[Box, np.ndarray]]:
    """The boxes of the main image, of this `size`, that have an area in it, and their sides as
    shares."""
    width, height = size
    for box in sample.boxes:
        xyxy = np.clip(np.array(box.xyxy, np.float64) / (width, height, width, height), 0, 1)
        if box.image == "main" and (xyxy[2:] > xyxy[:2]).all():
            yield box, xyxy


def on_grid(boxes: np.ndarray, numbers: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Targets of each cell (h · w, 6), by the box at its centre.

    They are the number of the box's class (-1: no box), the distances to its left, upper, right and
    lower side, and the centrality of the cell in it.

        centrality = sqrt( min(l, r) / max(l, r) · min(t, b) / max(t, b) )

    boxes (n, 4) and distances are shares of the image. Of several boxes the smallest counts; a box
    that contains no cell's centre has no effect. Source: Tian et al. 2019 (FCOS), with one level.

    >>> found = on_grid(np.array([[0.0, 0, 0.5, 1]]), np.array([3]), (1, 2))
    >>> found[0].tolist(), float(found[1, 0])
    ([3.0, 0.25, 0.5, 0.25, 0.5, 1.0], -1.0)
    """
    h, w = grid
    y, x = np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij")
    found = np.zeros((h * w, 6), np.float32)
    found[:, 0] = -1
    if not len(boxes):
        return found
    centre = np.stack([x.ravel(), y.ravel()], axis=1)[:, None]  # (h · w, 1, 2)
    sides = np.concatenate([centre - boxes[:, :2], boxes[:, 2:] - centre], axis=2)  # (h · w, n, 4)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    inside = np.where((sides > 0).all(axis=2), area, np.inf)
    best = inside.argmin(axis=1)
    held = np.isfinite(inside[np.arange(h * w), best])
    mine = sides[np.arange(h * w), best][held]
    near = np.minimum(mine[:, :2], mine[:, 2:])
    far = np.maximum(mine[:, :2], mine[:, 2:])
    found[held, 0] = numbers[best[held]]
    found[held, 1:5] = mine
    found[held, 5] = np.sqrt((near / far).prod(axis=1))
    return found
