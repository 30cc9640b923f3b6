"""NLVR2 (`train.json`, `dev.json`, `test1.json`, `test2.json`): JSON lines of a statement about two
photographs and whether it is true.

The images of `dev-850-0-1` are `dev-850-0-img0.png`, on the left, and `dev-850-0-img1.png`. The statement
is a question and its answer is true or false; the label `true` is 1 or 0.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, EncodedImage, Field, Sample, Schema, Text, image_of
from diptych.data.sources._files import beginning
from diptych.data.sources.rows import JsonRows
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "nlvr2"
TRUTHS = ("false", "true")
_MARKS = (b'"sentence"', b'"identifier"', b'"label"')
_IDENTIFIER = re.compile(r"(?P<images>(?P<split>[a-z]+[0-9]?)-[0-9]+-[0-9]+)-[0-9]+")
_FOLDERS = ("images", "nlvr2", "nlvr2/images", "../images")


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the fields of its first line."""
    first = beginning(spec, ".json", ".jsonl").partition(b"\n")[0]
    return all(mark in first for mark in _MARKS)


@dataclass(frozen=True, kw_only=True)
class Nlvr2Options:
    """Options of an NLVR2 file: `images` is the folder of its images, or of its splits' folders."""

    images: str | None = None


def open(spec: Spec) -> "Nlvr2":
    """Open `dev.json[:images=FOLDER]`; without images in a usual folder next to it, the source has only
    texts."""
    options = configure(Nlvr2Options, spec.options, f"source {spec.name!r}")
    return Nlvr2(spec.name, JsonRows(spec.name), options.images)


class Nlvr2:
    """One sample per row, in order, whose identifier is the key, with the images `main` and `page2`.

    Rows that cannot be read are counted in `damage` (json, utf8, columns). Raises InputError for a file
    without valid rows, and for a folder without the first image.
    """

    def __init__(self, name: str, rows: JsonRows, images: str | None = None):
        self.name = name
        self._rows = rows
        good = []
        keys = []
        labels = []
        damage = {}
        first: Mapping[str, Any] = {}
        for number, row in enumerate(rows.scan()):
            if isinstance(row, BadSample) or not _fits(row):
                reason = row.reason if isinstance(row, BadSample) else "columns"
                damage[f"{name}:{number + 1}"] = reason
                continue
            good.append(number)
            keys.append(row["identifier"])
            labels.append(_truth(row))
            first = first or row
        if not good:
            raise InputError(
                f"{name}: no line is {{'sentence': …, 'identifier': 'dev-850-0-1', 'label': 'True' | 'False'}}; "
                "rename the columns of a table of another form"
            )
        if len(set(keys)) < len(keys):
            keys = [f"{key}#{number + 1}" for key, number in zip(keys, good, strict=True)]
        self.damage: Mapping[str, str] = damage
        self._good = np.array(good, np.int64)
        self._keys = Strings(keys)
        self._label = np.array(labels, np.int64)
        self._place = _place_of_images(Path(name), first, images)

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        row = self._rows[int(self._good[index])]
        images: dict[str, EncodedImage] = {}
        if self._place is not None:
            for page, path in enumerate(_paths(row, *self._place)):
                images[image_of(page)] = FileImage(path)
        true = int(self._label[index])
        return Sample(
            key=self._keys[index],
            source=self.name,
            images=images,
            texts=(
                Text(text=row["sentence"].strip(), role="question", attrs={"choices": TRUTHS}),
                Text(text=TRUTHS[true], role="answer"),
            ),
            labels={"true": true},
        )

    def keys(self) -> Sequence[str]:
        """The identifiers."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """The label `true` of all samples (N,)."""
        assert name == "true"
        return self._label

    def schema(self) -> Schema:
        """Statement, whether it is true, and the images if they were found."""
        there = self._place is not None
        found = {f"images.{image_of(page)}": Field(kind="image") for page in range(2 * there)}
        texts = {f"texts.{role}": Field(kind="text") for role in ("question", "answer")}
        return {**found, **texts, "labels.true": Field(kind="int", classes=TRUTHS)}


def _fits(row: Mapping[str, Any]) -> bool:
    return (
        all(isinstance(row.get(name), str) for name in ("sentence", "identifier"))
        and row["sentence"].strip() != ""
        and _IDENTIFIER.fullmatch(row["identifier"]) is not None
        and str(row.get("label")).lower() in TRUTHS
        and isinstance(row.get("directory", 0), int)
    )


def _truth(row: Mapping[str, Any]) -> int:
    """1 for a true statement; the label is a word or, in copies of the data, a truth value."""
    return TRUTHS.index(str(row["label"]).lower())


def _paths(row: Mapping[str, Any], root: str, layout: str) -> list[str]:
    """The files of the left and the right image of a row."""
    named = _IDENTIFIER.fullmatch(row["identifier"])
    assert named is not None
    folder = layout.format(split=named["split"], directory=row.get("directory", ""))
    return [str(Path(root, folder, f"{named['images']}-img{side}.png")) for side in (0, 1)]


def _place_of_images(
    path: Path, first: Mapping[str, Any], images: str | None
) -> tuple[str, str] | None:
    """The folder of the images, `images` or a usual one next to the file, and the folders below it in
    which they lie: all in one, in one a split, or those of train in numbered ones. None if they are
    nowhere.
    """
    folders = [Path(images)] if images is not None else [path.parent / name for name in _FOLDERS]
    numbered = isinstance(first.get("directory"), int)
    layouts = ("{split}/{directory}", "{directory}") if numbered else ("{split}", "")
    for root in map(str, folders):
        for layout in (*layouts, "{split}", ""):
            if os.path.isfile(_paths(first, root, layout)[0]):  # noqa: PTH113  (False for any text)
                return root, layout
    if images is not None:
        name = Path(_paths(first, images, "")[0]).name
        raise InputError(
            f"{path}: its first image, {name}, is not in {images}; name the folder that holds the images or the "
            "folders of splits"
        )
    return None
