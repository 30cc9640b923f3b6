"""Texts that were read in images, as published for record linkage (arXiv 2304.03464)

    ocr.json      an object with the text of each image, {"crops/1.png": "acme shipping co", …}
    pairs.csv     a table of images that belong together, with columns source_path and target_path

Images that pairs join, also by way of others, are of one entity; an image in no pair has one of its
own.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.data.sources.rows import open_rows
from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure

FORMAT = "ocr"
PAIR = ("source_path", "target_path")
_FIRST = re.compile(rb'\s*\{\s*"[^"]*\.(?:jpe?g|png|webp|gif|bmp|tiff?)"\s*:\s*"', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class OCROptions:
    """Options of a file of texts.

    `images` is the folder of the images, by default that of the file; `links` the table of pairs, by
    which records have the label `entity`; `side` selects the images of one of its columns.
    """

    images: str | None = None
    links: str | None = None
    side: Literal["source", "target"] | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a JSON object whose first member is an image with a text."""
    return _FIRST.match(beginning(spec, ".json")) is not None


def open(spec: Spec) -> "OCR":
    """Open `ocr.json[:images=FOLDER][:links=pairs.csv][:side=source|target]`. Raises InputError for a
    folder without the first image, and for pairs of images without a text."""
    options = configure(OCROptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    found = json_of(path)
    damage = {f"{path}:{name}": "columns" for name, text in found.items() if not _fits(name, text)}
    texts = {name: text for name, text in found.items() if _fits(name, text)}
    if not texts:
        raise InputError(f"{path}: no member is the path of an image with its text; check the file")
    root, _ = root_of(path, [next(iter(texts))], options.images, ("images",))
    if options.links is None:
        if options.side is not None:
            raise InputError(f"{path}: side={options.side} is of a table of pairs; add links=FILE")
        return OCR(spec.name, root, texts, None, damage)
    pairs = read_pairs(options.links)
    for name in (name for pair in pairs for name in pair):
        if name not in texts:
            raise InputError(
                f"{options.links} names {name}, which has no text in {path}; read its text, or leave the pair out"
            )
    entities = joined(list(texts), pairs)
    if options.side is not None:
        wanted = {pair[options.side == "target"] for pair in pairs}
        texts = {name: text for name, text in texts.items() if name in wanted}
    return OCR(spec.name, root, texts, entities, damage)


def read_pairs(path: str) -> list[tuple[str, str]]:
    """Return the pairs of a table, source first; a pair without a target, a query that has no match,
    is left out.

    Raises InputError if a column is missing.
    """
    if not os.path.isfile(path):  # noqa: PTH113  (False for any text)
        raise InputError(f"{path}: no such file; check the path of links")
    rows = open_rows(path)
    for name in PAIR:
        if name not in rows.columns:
            raise unknown(f"column of {path}", name, rows.columns)
    read = [row for row in rows.scan() if not isinstance(row, BadSample)]
    source, target = PAIR
    pairs = [(str(row.get(source) or ""), str(row.get(target) or "")) for row in read]
    return [pair for pair in pairs if all(pair)]


def joined(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the entity of each name: the first name of those that pairs join.

    >>> joined(["a", "b", "c", "d"], [("c", "a"), ("c", "d")])
    {'a': 'a', 'b': 'b', 'c': 'a', 'd': 'a'}
    """
    place = {name: at for at, name in enumerate(names)}
    parent = list(range(len(names)))

    def first(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for one, other in pairs:
        low, high = sorted((first(place[one]), first(place[other])))
        parent[high] = low
    return {name: names[first(at)] for name, at in place.items()}


def _fits(name: str, text: Any) -> bool:
    return isinstance(text, str) and inside(name)


class OCR:
    """One sample per image, in the order of the file; its path is the key. The text is the caption,
    and the label `entity` is there if pairs are. Members that are no image with a text are counted
    in `damage`."""

    def __init__(
        self,
        name: str,
        root: Path,
        texts: Mapping[str, str],
        entities: Mapping[str, str] | None,
        damage: Mapping[str, str],
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self._names = Strings(texts)
        self._texts = Strings(texts.values())
        self._classes: tuple[str, ...] = ()
        self._entity: np.ndarray | None = None
        if entities is not None:
            own = [entities[name] for name in texts]
            self._classes = tuple(dict.fromkeys(own))
            number = {entity: at for at, entity in enumerate(self._classes)}
            self._entity = np.array([number[entity] for entity in own])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        text = self._texts[index]
        return Sample(
            key=self._names[index],
            source=self.name,
            images={"main": FileImage(os.path.join(self.root, self._names[index]))},  # noqa: PTH118
            texts=[Text(text=text)] if text.strip() else [],
            labels={} if self._entity is None else {"entity": int(self._entity[index])},
        )

    def keys(self) -> Sequence[str]:
        """The paths of the images."""
        return self._names

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        assert name == "entity", "it is the only label"
        assert self._entity is not None, "it is in the schema then"
        return self._entity

    def schema(self) -> Schema:
        """Images, texts, and the entity if there are pairs."""
        entity = {"labels.entity": Field(kind="int", classes=self._classes)}
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text", optional=True),
            **({} if self._entity is None else entity),
        }
