"""Regions: the classes of boxes that a file lists for the images of a source, and the scores of a
detector together with them.

A file of boxes is JSON as `diptych detect --json` prints it: a list of objects, or an object whose
`boxes` are that list, each with `image`, the file or the key of the image, and `box`, its left,
upper, right and lower side in pixels. Those of a detector also have `name` and `score`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.boxes import inside
from diptych.data.images import FileImage, is_image, size_of
from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Reader, Steps, read_images
from diptych.inference.classify import set_named_classes
from diptych.inference.pictures import name_and_size
from diptych.methods.abilities import require
from diptych.models.regions import squashed

CLIP_SCALE = 75.0
"""The scale of cosines for scores that are combined with a detector's (F-ViT: Wu et al., 2024)."""


@dataclass(frozen=True)
class Given:
    """A box of a file, in pixels, and what a detector says of it."""

    box: tuple[float, float, float, float]
    name: str = ""
    score: float | None = None


@dataclass(frozen=True)
class NamedRegion:
    """A box in pixels (left, top, right, bottom) of an image, which is given by its file or its key;
    its likeliest classes with their probabilities; and where a detector's scores are combined, its
    class with its new score."""

    image: str
    box: tuple[float, float, float, float]
    classes: tuple[tuple[str, float], ...]
    name: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Fusion:
    """How a detector's scores are combined with those of regions: the weight of the latter for base
    classes and for the `novel` ones."""

    base: float
    other: float
    novel: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.base <= 1 and 0 <= self.other <= 1):
            raise InputError(
                f"the weights {self.base:g},{self.other:g} are shares; give two numbers from 0 to 1"
            )

    def weight(self, name: str) -> float:
        """The weight of the region's score for a class."""
        return self.other if name in self.novel else self.base


def fused(detected: float, named: float, weight: float) -> float:
    """A detector's score and the probability by the region, as their weighted geometric mean.

        p = p_det^(1 - a) p_clip^a

    >>> round(fused(0.81, 0.25, 0.5), 3)
    0.45
    """
    return detected ** (1 - weight) * named**weight


def read_boxes(path: str | Path) -> dict[str, list[Given]]:
    """Return the boxes of a file by their image. Raises InputError for a row that is none."""
    data = json_of(Path(path))
    rows = data.get("boxes") if isinstance(data, Mapping) else data
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} lists no boxes; give what `diptych detect --json` prints")
    found: dict[str, list[Given]] = {}
    for at, row in enumerate(rows):
        try:
            x0, y0, x1, y1 = (float(side) for side in row["box"])
            score = row.get("score")
            given = Given((x0, y0, x1, y1), str(row.get("name", "")), score and float(score))
            found.setdefault(str(row["image"]), []).append(given)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: row {at} has no image with a box of four numbers ({error}); give "
                '{"image": …, "box": [left, top, right, bottom]}'
            ) from error
    return found


def name_regions(
    model: Any,
    images: str | Path,
    boxes: str | Path,
    names: Sequence[str] | str | Path | None = None,
    *,
    templates: Sequence[str] | None = None,
    label: str | None = None,
    k: int = 3,
    size: int | None = None,
    fusion: Fusion | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> tuple[list[NamedRegion], Counter[str]]:
    """Return the `k` likeliest classes of every box of a file, in the order of the images, and the
    number of unreadable images by reason. The classes stay set in the model.

    `images` is a source or one image; `names`, `templates` and `label` are those of
    `classify.name_source`, and `size` is that of `embed_regions`. With `fusion` the boxes are a
    detector's: each gets the geometric mean of its score and of the probability of its class here,
    at a scale of 75.

    Raises InputError for boxes of an image that the source lacks, a box outside its image, and a
    model that names no regions.
    """
    require(model, "classify_regions", "diptych classify --boxes", model.name)
    given = read_boxes(boxes)
    if is_image(images):
        rest = _named(model, None, given, names, templates, label, fusion)
        image = FileImage(str(images))
        pixels = [(image, str(images), size_of(image))]
        rows = _regions(model, pixels, rest, k, size, fusion, exact)
        bad: Counter[str] = Counter()
    else:
        source = open_source(images)
        rest = _named(model, source, given, names, templates, label, fusion)
        bad = Counter()
        rows = []
        reader = Reader(squashed(model.preprocess, size))
        steps = Steps(progress, len(source))
        for batch, facts in read_images(
            reader, source, name_and_size, bad, exact=exact, batch_size=batch_size, steps=steps
        ):
            own = [(each, *fact) for each, fact in zip(batch, facts, strict=True)]
            rows += _regions(model, own, rest, k, size, fusion, exact)
    if len(rest) > bad.total():
        raise not_held(boxes, next(iter(rest)), images)
    return rows, bad


def _named(
    model: Any,
    source: Source | None,
    given: dict[str, list[Given]],
    names: Any,
    templates: Sequence[str] | None,
    label: str | None,
    fusion: Fusion | None,
) -> dict[str, list[Given]]:
    """Set the classes, by default the detector's where its scores are combined; return the boxes."""
    if fusion is not None:
        found = [each for own in given.values() for each in own]
        if any(each.score is None or not each.name for each in found):
            raise InputError(
                "scores are combined with those of a detector, and a box has no name or score; give what "
                "`diptych detect --json` prints"
            )
        names = sorted({each.name for each in found}) if names is None else names
    set_named_classes(model, source, names, templates=templates, label=label)
    if fusion is not None:
        known = set(model.classes)
        lacking = {each.name for own in given.values() for each in own} | set(fusion.novel)
        if lacking - known:
            raise InputError(
                f"the class {min(lacking - known)!r} is not among the names; add it to --names"
            )
    return given


def _regions(
    model: Any,
    images: Sequence[tuple[Any, str, tuple[int, int]]],
    rest: dict[str, list[Given]],
    k: int,
    size: int | None,
    fusion: Fusion | None,
    exact: bool,
) -> list[NamedRegion]:
    """Name the boxes of images (pixels or image, name, width and height), and take them out of
    `rest`."""
    mine = [(pixels, name, wide, rest.pop(name)) for pixels, name, wide in images if name in rest]
    if not mine:
        return []
    pixels: Any = [each for each, *_ in mine]
    if isinstance(pixels[0], Tensor):
        pixels = torch.stack(pixels)
    boxes = [_shares(name, size_, own) for _, name, size_, own in mine]
    scale = CLIP_SCALE if fusion is not None else None
    found = model.classify_regions(pixels, boxes, size=size, scale=scale, exact=exact)
    rows = []
    for (_, name, _, own), shares in zip(mine, found, strict=True):
        for each, likely in zip(own, shares.tolist(), strict=False):
            order = sorted(range(len(likely)), key=lambda at: -likely[at])[:k]
            classes = tuple((model.classes[at], likely[at]) for at in order)
            if fusion is None:
                rows.append(NamedRegion(name, each.box, classes))
                continue
            assert each.score is not None
            own_share = likely[model.classes.index(each.name)]
            score = fused(each.score, own_share, fusion.weight(each.name))
            rows.append(NamedRegion(name, each.box, classes, each.name, score))
    return rows


def _shares(name: str, size: tuple[int, int], given: Sequence[Given]) -> list[list[float]]:
    """The boxes of an image as shares of its size. Raises InputError for one outside of it."""
    found = []
    for each in given:
        shares = inside(each.box, size)
        if shares is None:
            raise InputError(
                f"{outside(each.box, name, size)}; give left, upper, right and lower side in its pixels"
            )
        found.append(list(shares))
    return found


def outside(box: Sequence[float], name: str, size: tuple[int, int]) -> str:
    """What is wrong with a box that is not inside its image, in words."""
    sides = ", ".join(f"{side:g}" for side in box)
    return f"the box ({sides}) of {name} lies outside the image of {size[0]} x {size[1]} pixels, or has no area"


def not_held(boxes: str | Path, name: str, images: str | Path) -> InputError:
    """The error for a file with boxes of an image that the source lacks."""
    return InputError(
        f"{boxes} has boxes of {name}, which {images} does not hold; name images as the source does: "
        "by file, else by key"
    )
