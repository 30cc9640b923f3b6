"""Satellite tiles of cities, as UrbanCLIP publishes them: captions as JSON, indicators as CSV

    [[{"caption": "a row of buildings", "image": "Beijing/16_12677_4730_s.jpg"}, …], …]
    Coordinate,carbon,gdp
    "(12677, 4730)",2.7,3.0

Each caption of an image is one of its texts, wherever it stands in the lists. The name of an image has
the zoom and the numbers x and y of its tile, `ZOOM_X_Y_s.jpg`, and so has the column `Coordinate`. A
CSV file by itself gives tiles without captions.

    Beijing_captions.json:indicators=Beijing.csv:split=train
    Shanghai.csv:images=images/Shanghai/:block=4
    Beijing_captions.json:indicators=Beijing.csv:by=tiles:split=test:shuffle=132

Tiles form blocks of `block` x `block`. `split` takes train, val or test: about .8, .1 and .1 of the
tiles, whole blocks by default. With `by=tiles`, as published, single ones, so that tiles are judged whose
neighbours were learnt from.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.data.compact import Strings
from diptych.data.endings import IMAGES
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.data.sources.rows import open_rows
from diptych.errors import InputError
from diptych.rng import generator
from diptych.spec import Count, Spec, configure

FORMAT = "city_tiles"
COORDINATE = "Coordinate"
SPLITS = ("train", "val", "test")
SHARES = (0.8, 0.9)
"""Where validation and test begin."""
_FIRST = re.compile(rb'\s*\[\s*\[\s*\{(?=[^{}]*"image"\s*:\s*")[^{}]*"caption"\s*:\s*"')
_HEAD = re.compile(rb'(?:\xef\xbb\xbf)?(?:[^\r\n]*,)?\s*"?Coordinate"?\s*(?:[,\r\n]|$)')
_NAME = re.compile(r"(?P<zoom>\d{1,2})_(?P<x>\d+)_(?P<y>\d+)(?:_[^/\\]*)?\.(?P<kind>\w+)")
_PAIR = re.compile(r"[(\[]?\s*(\d+)\s*,\s*(\d+)\s*[)\]]?")
_NEEDED = "tiles are found and divided by the numbers of their places"

Place = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CityOptions:
    """Options of tiles.

    - `images` is the folder of the images, by default one near the file
    - `indicators` are the CSV files of a file of captions, A.csv+B.csv
    - `split` is train, val or test, by default all; `by` says what is kept whole, and `shuffle` is
      the seed by which it is divided
    - `block` is the side of a block, in tiles
    """

    images: str | None = None
    indicators: str | None = None
    split: Literal["train", "val", "test"] | None = None
    by: Literal["blocks", "tiles"] = "blocks"
    shuffle: int = 0
    block: Count = 8


@dataclass(frozen=True, kw_only=True)
class Tile:
    """An image, its city and place, its captions and its indicators."""

    image: str
    city: str
    place: Place
    captions: tuple[str, ...] = ()
    values: tuple[float, ...] = ()


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a JSON list of lists of captions with images, or a CSV file with a
    column `Coordinate`."""
    return (
        _FIRST.match(beginning(spec, ".json")) is not None
        or _HEAD.match(beginning(spec, ".csv")) is not None
    )


def open(spec: Spec) -> "CityTiles":
    """Open `CAPTIONS.json[:indicators=FILE.csv]` or `FILE.csv`, with the options of `CityOptions`.

    Raises InputError for a tile without coordinates, for indicators of which no tile is there, and for
    a part without a tile.
    """
    options = configure(CityOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    damage: dict[str, str] = {}
    if path.suffix.lower() == ".csv":
        if options.indicators is not None:
            raise InputError(
                f"{path} holds indicators itself; leave out :indicators, or open a file of captions"
            )
        table = _Table([path])
        root, tiles = _of_table(path, table, options.images, damage)
    else:
        captions = _captions(path, json_of(path), damage)
        root, _ = root_of(path, [next(iter(captions))], options.images, ("images",))
        files = [] if options.indicators is None else options.indicators.split("+")
        table = _Table([_near(path, file) for file in files])
        tiles = _of_captions(path, root, captions, table)
    blocks = _blocks(tiles, options.block)
    rows = range(len(tiles)) if options.split is None else _part(path, blocks, options)
    return CityTiles(str(spec), root, tiles, blocks, rows, table.names, damage)


class CityTiles:
    """One sample per tile, in the order of the file; its image is the key. Labels are the indicators,
    NaN where a tile has none, the `city` and the `block`. Rows that cannot be read are counted in
    `damage`."""

    def __init__(
        self,
        name: str,
        root: Path,
        tiles: Sequence[Tile],
        blocks: np.ndarray,
        rows: Sequence[int],
        indicators: Sequence[str],
        damage: Mapping[str, str],
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        chosen = [tiles[row] for row in rows]
        self._images = Strings(tile.image for tile in chosen)
        self._texts = Strings(text for tile in chosen for text in tile.captions)
        self._ends = np.cumsum([len(tile.captions) for tile in chosen])
        self._places = np.array([tile.place for tile in chosen], np.int64)
        self._values = np.array([tile.values for tile in chosen], np.float64)
        self._indicators = tuple(indicators)
        self._cities = tuple(sorted({tile.city for tile in tiles}))
        number = {city: at for at, city in enumerate(self._cities)}
        self._city = np.array([number[tile.city] for tile in chosen], np.int64)
        self._block = blocks[list(rows)]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        texts = [Text(text=self._texts[at]) for at in range(start, int(self._ends[index]))]
        values = zip(self._indicators, self._values[index].tolist(), strict=True)
        return Sample(
            key=self._images[index],
            source=self.name,
            images={"main": FileImage(os.path.join(self.root, self._images[index]))},  # noqa: PTH118
            texts=texts,
            labels={
                **dict(values),
                "city": int(self._city[index]),
                "block": int(self._block[index]),
            },
            arrays={"place": self._places[index].astype(np.float32)},
        )

    def keys(self) -> Sequence[str]:
        """The files of the images."""
        return self._images

    def labels(self, name: str) -> np.ndarray:
        """One label of all tiles (N,), without reading images."""
        if name in self._indicators:
            return self._values[:, self._indicators.index(name)]
        return {"city": self._city, "block": self._block}[name]

    def schema(self) -> Schema:
        """Images, captions if there are some, indicators, cities, blocks and places."""
        texts: Schema = {"texts.caption": Field(kind="text")} if len(self._texts) else {}
        return {
            "images.main": Field(kind="image"),
            **texts,
            **{f"labels.{name}": Field(kind="float") for name in self._indicators},
            "labels.city": Field(kind="int", classes=self._cities),
            "labels.block": Field(kind="int"),
            "arrays.place": Field(kind="array"),
        }


def place_of(name: str) -> Place | None:
    """The numbers (x, y) of the tile in the name of an image, None if there are none.

    >>> place_of("Beijing/16_12677_4730_s.jpg"), place_of("Beijing/centre.jpg"), place_of("2_9_0.png")
    ((12677, 4730), None, None)
    """
    found = _NAME.fullmatch(re.split(r"[/\\]", name)[-1])
    if found is None:
        return None
    x, y = map(int, found.group("x", "y"))
    return (x, y) if max(x, y) < 2 ** int(found["zoom"]) else None


def _captions(path: Path, data: Any, damage: dict[str, str]) -> dict[str, list[str]]:
    """The different captions of each image, in order of appearance."""
    found: dict[str, list[str]] = {}
    lists = data if isinstance(data, list) else []
    for number, rows in enumerate(lists):
        for at, row in enumerate(rows if isinstance(rows, list) else [rows]):
            if not _fits(row):
                damage[f"{path}:list {number}:row {at}"] = "columns"
                continue
            own = found.setdefault(row["image"], [])
            text = row["caption"].strip()
            if text and text not in own:
                own.append(text)
    if not found:
        raise InputError(
            f"{path}: no row has an image and a caption; write lists of {{caption, image}}, one list for each tile"
        )
    return found


def _fits(row: Any) -> bool:
    return (
        isinstance(row, Mapping)
        and isinstance(row.get("image"), str)
        and isinstance(row.get("caption"), str)
        and inside(row["image"])
    )


def _of_captions(
    path: Path, root: Path, captions: Mapping[str, Sequence[str]], table: "_Table"
) -> list[Tile]:
    """The tiles of a file of captions, with the indicators of their places."""
    tiles = []
    for image, texts in captions.items():
        place = place_of(image)
        if place is None:
            raise InputError(
                f"{path}: the tile {image} has no coordinates in its name, and {_NEEDED}; name it ZOOM_X_Y_s.jpg, as "
                "16_12677_4730_s.jpg, or give images without places as one flat list of {image, caption}"
            )
        city = Path(image).parent.name or root.name
        values = table.of(place)
        tiles.append(
            Tile(image=image, city=city, place=place, captions=tuple(texts), values=values)
        )
    if table.files and not any(tile.place in table.rows for tile in tiles):
        raise InputError(
            f"{' and '.join(map(str, table.files))}: no row is of a tile of {path}; name the indicators of its city"
        )
    return tiles


def _of_table(
    path: Path, table: "_Table", images: str | None, damage: dict[str, str]
) -> tuple[Path, list[Tile]]:
    """The folder of images, and the tiles of a table of indicators."""
    root, names = _folder(path, table, images)
    for place, (row, _) in table.rows.items():
        if place not in names:
            damage[f"{path}:row {row}"] = "no-image"
    return root, [
        Tile(image=names[place], city=root.name, place=place, values=table.of(place))
        for place in table.rows
        if place in names
    ]


def _folder(path: Path, table: "_Table", images: str | None) -> tuple[Path, dict[Place, str]]:
    """The folder that has an image of a tile of the table, and its images by place."""
    above = list(path.absolute().parents)[:3]
    inner = (f"images/{path.stem}", path.stem, "images", "")
    near = [base / folder for base in above for folder in inner]
    for folder in near if images is None else [Path(images)]:
        if not folder.is_dir():
            continue
        names = {
            place: name
            for name in sorted(os.listdir(folder))  # noqa: PTH208
            if name.lower().endswith(tuple(f".{kind}" for kind in IMAGES))
            and (place := place_of(name)) is not None
        }
        if any(place in names for place in table.rows):
            return folder, names
    where = "near it" if images is None else f"in {images}"
    x, y = next(iter(table.rows))
    raise InputError(
        f"{path}: the image of its first tile, ZOOM_{x}_{y}_s.jpg, is not {where}; name the folder with :images=FOLDER"
    )


class _Table:
    """The rows of CSV files by place, each with its number and its values of `names`."""

    def __init__(self, files: Sequence[Path]):
        self.files = files
        self.rows: dict[Place, tuple[int, dict[str, float]]] = {}
        names: dict[str, None] = {}
        for file in files:
            for number, place, cells in _cells(file):
                values = dict(self.rows.get(place, (0, {}))[1])
                for name, value in cells.items():
                    if values.setdefault(name, value) != value:
                        raise InputError(
                            f"{file}, row {number}: the tile {place} has two values of {name}; keep one"
                        )
                self.rows[place] = (number, values)
                names |= dict.fromkeys(cells)
        self.names = tuple(names)

    def of(self, place: Place) -> tuple[float, ...]:
        """The values of a place, NaN where there are none."""
        _, values = self.rows.get(place, (0, {}))
        return tuple(values.get(name, math.nan) for name in self.names)


def _cells(path: Path) -> Iterator[tuple[int, Place, dict[str, float]]]:
    """The number, the place and the numbers of each row of a table.

    Raises InputError for a row without the numbers of a tile, and for a word in a column of numbers.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of indicators; check the path")
    table = open_rows(str(path))
    found = [(number, row) for number, row in enumerate(table.scan(), 1)]
    words: dict[str, int] = {}
    numbers: set[str] = set()
    rows: list[tuple[int, Place, dict[str, float]]] = []
    for number, row in found:
        if isinstance(row, BadSample):
            raise InputError(f"{path}, row {number}: {row}; write as many cells as the first line")
        given = str(row.get(COORDINATE, ""))
        pair = _PAIR.fullmatch(given.strip())
        if pair is None:
            raise InputError(
                f"{path}, row {number}: {COORDINATE} is {given!r}, and {_NEEDED}; write the numbers x and y of the "
                "tile, as (12677, 4730), not degrees"
            )
        values = {}
        for name, cell in row.items():
            if name == COORDINATE:
                continue
            try:
                values[name] = float(cell)
            except ValueError:
                words.setdefault(name, number)
        numbers |= values.keys()
        rows.append((number, (int(pair[1]), int(pair[2])), values))
    for name in numbers & words.keys():
        raise InputError(
            f"{path}, row {words[name]}: {name} is no number, but it is in other rows; leave the cell empty where "
            "there is no value"
        )
    if not rows:
        raise InputError(f"{path} has no rows; give tiles with indicators")
    return iter(rows)


def _near(path: Path, file: str) -> Path:
    """A file of indicators, as named from here or from the folder of the captions."""
    return Path(file) if Path(file).is_file() else path.parent / file


def _blocks(tiles: Sequence[Tile], side: int) -> np.ndarray:
    """The number of each tile's block."""
    places = [(tile.city, tile.place[0] // side, tile.place[1] // side) for tile in tiles]
    numbers = {block: at for at, block in enumerate(sorted(set(places)))}
    return np.array([numbers[block] for block in places], np.int64)


def _part(path: Path, blocks: np.ndarray, options: CityOptions) -> list[int]:
    """The tiles of a split, of whole blocks or of single tiles, by a permutation of these."""
    owners = blocks if options.by == "blocks" else np.arange(len(blocks))
    sizes = np.bincount(owners)
    order = generator(options.shuffle, "city_tiles", options.by).permutation(len(sizes))
    middles = (np.cumsum(sizes[order]) - sizes[order] / 2) / len(owners)
    part = np.empty(len(sizes), np.int64)
    part[order] = np.searchsorted(SHARES, middles, side="right")
    assert options.split is not None
    rows = np.flatnonzero(part[owners] == SPLITS.index(options.split))
    if not len(rows):
        raise InputError(
            f"{path} has {len(sizes)} {options.by}, of which none is in the part {options.split}; lower block, or "
            "divide by=tiles"
        )
    return rows.tolist()
