"""Views of an image with regions: boxes that move with it.

Dimensions: B samples, R regions, h x w cells, L text length, H x W pixels, M cells a side of a mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.boxes import boxes_of, object_mask, on_grid, shares
from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Box, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError, unknown
from diptych.spec import Spec, parse


@dataclass(frozen=True, kw_only=True)
class BoxView:
    """The whole main image (B, 1, 3, H, W), and the targets of its boxes for each cell of a grid
    (B, h · w, 6), as returned by `data.boxes.on_grid`.

    `names` are the classes in order; boxes of other classes count as background. `classes` are the
    names of the box labels in the data, () if boxes have texts. With `flip`, half of the images are
    mirrored in training.
    """

    preprocess: Preprocess
    grid: tuple[int, int]
    names: Sequence[str]
    classes: Sequence[str] = ()
    flip: bool = False

    def __post_init__(self) -> None:
        _check_whole(self.preprocess)

    @property
    def reads(self) -> tuple[str, ...]:
        return "images.main", "boxes"

    @property
    def gives(self) -> tuple[str, ...]:
        return "images.main", "fields.regions"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        image = _image(sample)
        boxes, held = shares(sample, image.size, self.classes)
        mirrored = self.flip and progress is not None and rng.uniform() < 0.5
        pixels, boxes = _seen(image, boxes, self.preprocess, mirrored)
        number = {name: at for at, name in enumerate(self.names)}
        known = [name in number for name in held]
        numbers = np.array([number[name] for name in held if name in number], np.int64)
        regions = on_grid(boxes[np.array(known, bool)], numbers, self.grid)
        return {"images.main": pixels, "fields.regions": torch.from_numpy(regions)}


@dataclass(frozen=True, kw_only=True)
class RegionView:
    """The whole main image (B, 1, 3, H, W) with up to `max_boxes` = R regions: fields.regions (B, R, 4),
    fields.regions.there (B, R), which of them are real, with a `tokenizer` their texts (B, R, L), and
    with `names` the numbers of their classes among these, fields.regions.classes (B, R), and with
    `masks` = M the masks of their objects, fields.regions.masks (B, R, M, M) uint8: of each cell of a
    box the share that is in the object, times 255.

    A region is x0, y0, x1, y1 as shares of the image. `regions` are "boxes", those of the sample;
    "grid:side=3", the cells of a 3 x 3 grid in rows; or "random:count=8", random ones whose sides
    are uniform in .1 … 1 of the image's, at a uniform position. Texts are those of the boxes, or
    their class names if there are `classes`; boxes of other classes than `names` are left out. With
    `flip`, half of the images are mirrored in training, and with `jitter` images are scaled by a
    factor between these two (`jittered`). Raises BadSample if a sample has more than `max_boxes` regions,
    and as `data.boxes.object_mask`; with `sampled` that many random ones are taken in training, and else
    the first.
    """

    preprocess: Preprocess
    max_boxes: int
    regions: str = "boxes"
    tokenizer: Tokenizer | None = None
    classes: Sequence[str] = ()
    names: Sequence[str] | None = None
    flip: bool = False
    jitter: tuple[float, float] | None = None
    sampled: bool = False
    masks: int | None = None

    def __post_init__(self) -> None:
        _check_whole(self.preprocess)
        kind = parse(self.regions).name
        if kind not in ("boxes", "grid", "random"):
            raise unknown("regions", kind, ("boxes", "grid", "random"))
        if self.tokenizer is not None and kind != "boxes":
            raise InputError(f"regions {self.regions!r} have no texts; leave the tokenizer out")
        if self.masks is not None and kind != "boxes":
            raise InputError(f"regions {self.regions!r} have no masks; leave masks out")

    @property
    def reads(self) -> tuple[str, ...]:
        masks = () if self.masks is None else ("boxes.mask",)
        return ("images.main", "boxes", *masks) if self.regions == "boxes" else ("images.main",)

    @property
    def gives(self) -> tuple[str, ...]:
        texts = () if self.tokenizer is None else ("texts.regions",)
        classes = () if self.names is None else ("fields.regions.classes",)
        masks = () if self.masks is None else ("fields.regions.masks",)
        return "images.main", "fields.regions", "fields.regions.there", *classes, *masks, *texts

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        image = _image(sample)
        mirrored = self.flip and progress is not None and rng.uniform() < 0.5
        boxes, names, own = self._regions(sample, image.size, rng)
        size = image.size
        seen = boxes
        if self.jitter is not None and progress is not None:
            image, boxes, kept, seen = jittered(image, boxes, self.jitter, rng)
            names = [name for name, held in zip(names, kept, strict=True) if held]
            own = [box for box, held in zip(own, kept, strict=True) if held]
        if len(boxes) > self.max_boxes and self.sampled:
            order = rng.permutation(len(boxes)) if progress is not None else np.arange(len(boxes))
            some = np.sort(order[: self.max_boxes])
            boxes, seen = boxes[some], seen[some]
            names = [names[at] for at in some] if names else names
            own = [own[at] for at in some] if own else own
        if len(boxes) > self.max_boxes:
            raise BadSample(
                f"more-than-{self.max_boxes}-regions", f"{len(boxes)} regions; raise `max_boxes`"
            )
        pixels, boxes = _seen(image, boxes, self.preprocess, mirrored)
        rows = np.zeros((self.max_boxes, 4), np.float32)
        rows[: len(boxes)] = boxes
        found: dict[str, Any] = {
            "images.main": pixels,
            "fields.regions": torch.from_numpy(rows),
            "fields.regions.there": torch.arange(self.max_boxes) < len(boxes),
        }
        if self.names is not None:
            numbers = [self.names.index(name) for name in names]
            found["fields.regions.classes"] = torch.tensor(
                numbers + [-1] * (self.max_boxes - len(names))
            )
        if self.masks is not None:
            planes = np.zeros((self.max_boxes, self.masks, self.masks), np.uint8)
            for at, (box, part) in enumerate(zip(own, seen, strict=True)):
                plane = cells_of(object_mask(box, size), part, self.masks)
                planes[at] = plane[:, ::-1] if mirrored else plane
            found["fields.regions.masks"] = torch.from_numpy(planes)
        if self.tokenizer is not None:
            filled = names + [""] * (self.max_boxes - len(names))
            found["texts.regions"] = self.tokenizer.encode(filled)
        return found

    def _regions(
        self, sample: Sample, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[str], list[Box]]:
        """The boxes (n, 4) before mirroring, the names of those that have one, and, of regions that are
        boxes of the sample, these."""
        match parse(self.regions):
            case Spec("grid", options):
                return grid_boxes(options.get("side", self.max_boxes)), [], []
            case Spec("random", options):
                return random_boxes(options.get("count", self.max_boxes), rng), [], []
            case _:
                named = self.tokenizer is not None or self.names is not None
                boxes, names = shares(sample, size, self.classes, named=named)
                own = boxes_of(sample, size, self.classes, named=named)
                if self.names is None:
                    return boxes, names, own
                known = [name in self.names for name in names]
                own = [box for box, held in zip(own, known, strict=True) if held]
                names = [name for name in names if name in self.names]
                return boxes[np.array(known, bool)], names, own


def grid_boxes(side: int) -> np.ndarray:
    """The cells (side², 4) of a grid, row by row.

    >>> grid_boxes(2)[1].tolist()
    [0.5, 0.0, 1.0, 0.5]
    """
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    corners = np.stack([x.ravel(), y.ravel(), x.ravel() + 1, y.ravel() + 1], axis=1)
    return (corners / side).astype(np.float32)


def random_boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random boxes (count, 4) inside the image, with sides uniform in .1 … 1 of it."""
    sides = rng.uniform(0.1, 1, (count, 2))
    corners = rng.uniform(size=(count, 2)) * (1 - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def cells_of(inside: np.ndarray, part: np.ndarray, side: int) -> np.ndarray:
    """The share of each cell of a part of an image that is in an object, (side, side) uint8, 255 for
    all of it. `inside` (H, W) are the object's pixels, `part` (4) is a box in shares of the image.

    >>> cells_of(np.array([[True, False]]), np.array([0.0, 0.0, 1.0, 1.0]), 2).tolist()
    [[255, 0], [255, 0]]
    """
    height, width = inside.shape
    left, top, right, bottom = np.clip(part, 0, 1) * (width, height, width, height)
    rows = slice(math.floor(top), math.ceil(bottom))
    columns = slice(math.floor(left), math.ceil(right))
    down = _in_cells(top, bottom, rows, side)
    across = _in_cells(left, right, columns, side)
    return np.rint(255 * (down @ inside[rows, columns] @ across.T)).astype(np.uint8)


def _in_cells(low: float, high: float, pixels: slice, side: int) -> np.ndarray:
    """The share (side, n) of each cell between two places that lies in each of n pixels of a row."""
    edges = np.linspace(low, high, side + 1)[:, None]
    start = np.arange(pixels.start, pixels.stop)
    common = np.minimum(edges[1:], start + 1) - np.maximum(edges[:-1], start)
    return common.clip(min=0) * side / max(high - low, 1e-9)


SEEN = 0.1
"""The least share of a box that must be left of it in a part of the image."""


def jittered(
    image: Image.Image, boxes: np.ndarray, factors: tuple[float, float], rng: np.random.Generator
) -> tuple[Image.Image, np.ndarray, np.ndarray, np.ndarray]:
    """What is seen of an image that is scaled by a random factor: a random part of it if it became
    larger, else all of it at a random place on black (Ghiasi et al., 2021).

    Returns the part, the boxes (n', 4) as shares of it, which of the boxes (n,) were kept, those of
    which a tenth is left, and what is left of them (n', 4) as shares of the image before.
    """
    width, height = image.size
    factor = rng.uniform(*factors)
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        image = image.resize(size)
        window = (width, height)
    else:
        window = max(1, round(width / factor)), max(1, round(height / factor))
    room = [image.size[axis] - window[axis] for axis in (0, 1)]  # below 0: beyond the image
    x, y = (round(rng.uniform(min(0, each), max(0, each))) for each in room)
    scale = np.array([*image.size, *image.size]) / np.array([*window, *window])
    start = np.array([x, y, x, y]) / np.array([*window, *window])
    placed = boxes * scale - start
    inside = placed.clip(0, 1).astype(np.float32)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (inside, placed)]
    kept = areas[0] >= SEEN * areas[1]
    left = (inside + start) / scale
    return image.crop((x, y, x + window[0], y + window[1])), inside[kept], kept, left[kept]


def _check_whole(preprocess: Preprocess) -> None:
    if preprocess.resize != "squash":
        raise InputError("boxes are laid on whole images; give a preprocess with resize=squash")


def _image(sample: Sample) -> Image.Image:
    """The main image at full size, since boxes are in its pixels."""
    encoded = sample.images.get("main")
    if encoded is None:
        raise BadSample("no-image", "no image of role 'main'")
    return encoded.decode()


def _seen(
    image: Image.Image, boxes: np.ndarray, preprocess: Preprocess, mirrored: bool
) -> tuple[Tensor, np.ndarray]:
    """The pixels (1, 3, H, W) and the boxes, both mirrored if asked."""
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
    return preprocess(image, exact=False)[None], boxes
