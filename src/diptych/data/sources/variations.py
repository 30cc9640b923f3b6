"""Variations of images as published (Sahin et al. 2023): a JSON list of objects

    name        the file of the variation
    source      the image that was varied, and `origin_name`, its name
    item        what was replaced
    captions    captions of the variation, in `short` and `desc` the thing that took the item's place
    itm_score   how well each caption matches the image, and `iva_score`, how much variations differ

Variations of one item of one image have the same label `item`; those of one image the same label
`image`. `itm` is the mean of the scores of a variation's captions, `iva` its area.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "variations"
_MARK = b'"iva_score"'


@dataclass(frozen=True, kw_only=True)
class VariationOptions:
    """Options of a file of variations: `images` is the folder of the images, by default that of the
    file."""

    images: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a JSON file whose first object has an `iva_score`."""
    return _MARK in beginning(spec, ".json")


def open(spec: Spec) -> "Variations":
    """Open `variations.json[:images=FOLDER]`. Raises InputError for other contents, and for a folder
    without the first image."""
    options = configure(VariationOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    rows = json_of(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: it lists no variations; compare it with the published files")
    damage = {
        f"{path}:row {number}": "columns" for number, row in enumerate(rows) if not _fits(row)
    }
    good = [row for row in rows if _fits(row)]
    if not good:
        raise InputError(
            f"{path}: no variation has a name, origin_name, item, captions and scores; compare it with the "
            "published files"
        )
    root, _ = root_of(path, [good[0]["name"]], options.images, ("images",))
    return Variations(spec.name, root, good, damage)


def _fits(row: Any) -> bool:
    return (
        isinstance(row, Mapping)
        and all(isinstance(row.get(name), str) for name in ("name", "origin_name", "item"))
        and inside(row["name"])
        and _all(row.get("captions"), str)
        and _all(row.get("itm_score"), (int, float))
        and isinstance(row.get("iva_score"), int | float)
    )


def _all(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, kind) for each in value)


class Variations:
    """One sample per variation, in order; its name is the key. Rows that cannot be read are counted
    in `damage`."""

    def __init__(
        self, name: str, root: Path, rows: Sequence[Mapping[str, Any]], damage: Mapping[str, str]
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self._names = Strings(row["name"] for row in rows)
        self._captions = Strings("\n".join(row["captions"]) for row in rows)
        self._short = Strings(str(row.get("short") or "") for row in rows)
        items = [(row["origin_name"], row["item"]) for row in rows]
        number = {item: at for at, item in enumerate(dict.fromkeys(items))}
        images = {image: at for at, image in enumerate(dict.fromkeys(image for image, _ in items))}
        self._labels = {
            "item": np.array([number[item] for item in items]),
            "image": np.array([images[image] for image, _ in items]),
            "itm": np.array([np.mean(row["itm_score"]) for row in rows], np.float64),
            "iva": np.array([row["iva_score"] for row in rows], np.float64),
        }

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        texts = [Text(text=text) for text in self._captions[index].split("\n")]
        if short := self._short[index]:
            texts.append(Text(text=short, role="short"))
        return Sample(
            key=self._names[index],
            source=self.name,
            images={"main": FileImage(os.path.join(self.root, self._names[index]))},  # noqa: PTH118
            texts=texts,
            labels={name: values[index].item() for name, values in self._labels.items()},
        )

    def keys(self) -> Sequence[str]:
        """The names of the variations."""
        return self._names

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        return self._labels[name]

    def schema(self) -> Schema:
        """Images, captions, the item and the image that each belongs to, and its scores."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "texts.short": Field(kind="text", optional=True),
            "labels.item": Field(kind="int"),
            "labels.image": Field(kind="int"),
            "labels.itm": Field(kind="float"),
            "labels.iva": Field(kind="float"),
        }
