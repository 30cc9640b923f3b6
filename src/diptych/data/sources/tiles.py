"""Classified small images in one image file: `train.json` beside `train.jpg`.

The JSON object gives `tile` (the side of a tile in pixels), `columns` (tiles to a row), `classes`
(names), and `labels`, the class number of each tile, row by row.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.compact import is_folder
from diptych.data.decode import dimensions
from diptych.data.endings import IMAGES
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema
from diptych.data.sources.records import json_of
from diptych.data.tiles import TileImage
from diptych.errors import InputError
from diptych.spec import Spec, configure, problem

FORMAT = "tiles"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The content of the JSON file."""

    tile: int
    columns: int
    classes: list[str]
    labels: list[int]


@dataclass(frozen=True)
class _Options:
    """Tiles have no options."""


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its suffix, and an image file of the same name beside
    it."""
    return spec.name.lower().endswith(".json") and not is_folder(spec) and _beside(spec.name) != ""


def open(spec: Spec) -> "Tiles":
    """Open `train.json`. Raises InputError for other contents, and an image without room for the
    tiles."""
    configure(_Options, spec.options, f"source {spec.name!r}")
    data = json_of(Path(spec.name))
    wrong = problem(Layout, data) if isinstance(data, Mapping) else "it is no object"
    if wrong:
        raise InputError(
            f"{spec.name}: {wrong}; beside an image of its name, it lists tile, columns, classes, labels"
        )
    layout = Layout(**{name: data[name] for name in Layout.__dataclass_fields__})
    _check(spec.name, layout)
    return Tiles(spec.name, _beside(spec.name), layout)


def _beside(name: str) -> str:
    """The image file of the same name; "" if there is none."""
    paths = (f"{os.path.splitext(name)[0]}.{kind}" for kind in IMAGES)  # noqa: PTH122
    return next((path for path in paths if os.path.isfile(path)), "")  # noqa: PTH113


def _check(name: str, layout: Layout) -> None:
    count = len(layout.labels)
    if not count or layout.tile < 1 or layout.columns < 1:
        raise InputError(f"{name}: no tiles; give a tile of 1 pixel, 1 column and 1 label at least")
    odd = [label for label in layout.labels if not 0 <= label < len(layout.classes)]
    if odd:
        raise InputError(f"{name}: label {odd[0]} is none of its {len(layout.classes)} classes")
    path = _beside(name)
    try:
        width, height = dimensions(FileImage(path).read())
    except BadSample as bad:
        raise InputError(f"{path}: {bad}; copy the file again") from bad
    needed = (layout.tile * layout.columns, layout.tile * -(-count // layout.columns))
    if width < needed[0] or height < needed[1]:
        raise InputError(
            f"{path}: {width} x {height} pixels hold no {count} tiles of {layout.tile} pixels in "
            f"{layout.columns} columns; compare it with {name}"
        )


class Tiles:
    """One sample per tile, with the label `class`; its number is the key."""

    def __init__(self, name: str, path: str, layout: Layout):
        self.name = name
        self.path = path
        self._side = layout.tile
        self._columns = layout.columns
        self._classes = tuple(layout.classes)
        self._label = np.array(layout.labels, np.int64)

    def __len__(self) -> int:
        return len(self._label)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        return Sample(
            key=str(index),
            source=self.name,
            images={"main": TileImage(self.path, index, self._side, self._columns)},
            labels={"class": int(self._label[index])},
        )

    def keys(self) -> Sequence[str]:
        """The numbers of the tiles."""
        return [str(index) for index in range(len(self))]

    def labels(self, name: str) -> np.ndarray:
        """The label `class` of all samples (N,)."""
        assert name == "class"
        return self._label

    def schema(self) -> Schema:
        """Images and their classes."""
        return {
            "images.main": Field(kind="image"),
            "labels.class": Field(kind="int", classes=self._classes),
        }
