"""DOCCI (`docci_descriptions.jsonlines`): an image of the folder `images` with a long description on each line

    example_id    its key
    split         train, test, qual_dev or qual_test
    image_file    the name of the image
    description   by people, 136 words on average

Source: Onoe et al. 2024.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.rows import JsonRows
from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure

FORMAT = "docci"
SPLITS = ("train", "test", "qual_dev", "qual_test")
_FIELDS = ("example_id", "split", "image_file", "description")


@dataclass(frozen=True, kw_only=True)
class DocciOptions:
    """Options of the file: `split` is one of `SPLITS`, several are joined by +; `images` is the folder of
    the images."""

    split: str | None = None
    images: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its first line's fields."""
    first = beginning(spec, ".jsonlines", ".jsonl")
    return all(f'"{name}"'.encode() in first for name in _FIELDS)


def open(spec: Spec) -> "Docci":
    """Open `docci_descriptions.jsonlines[:split=train][:images=FOLDER]`. Raises InputError for an unknown
    split, and for a file without a description of it."""
    options = configure(DocciOptions, spec.options, f"source {spec.name!r}")
    splits = SPLITS if options.split is None else tuple(options.split.split("+"))
    for split in splits:
        if split not in SPLITS:
            raise unknown("split of DOCCI", split, SPLITS)
    damage: dict[str, str] = {}
    rows = list(_read(spec.name, splits, damage))
    path = Path(spec.name)
    if not rows:
        raise InputError(
            f"{path}: no line describes an image of {'+'.join(splits)}; compare it with the published file"
        )
    root, _ = root_of(path, [rows[0][1]], options.images, ("images",))
    return Docci(spec.name, root, rows, damage)


def _read(
    name: str, splits: Sequence[str], damage: dict[str, str]
) -> Iterator[tuple[str, str, str]]:
    """Key, image and description of the lines of some splits."""
    for number, row in enumerate(JsonRows(name).scan(), 1):
        place = f"{name}:line {number}"
        if isinstance(row, BadSample):
            damage[place] = row.reason
            continue
        values = _values(row)
        if values is None:
            damage[place] = "columns"
            continue
        key, split, image, text = values
        if split in splits:
            yield key, image, text


def _values(row: Mapping[str, Any]) -> list[str] | None:
    """The fields of a line, None if it lacks one or names no file inside the folder."""
    found = [row.get(name) for name in _FIELDS]
    values = [value for value in found if isinstance(value, str) and value.strip()]
    return values if len(values) == len(_FIELDS) and inside(values[2]) else None


class Docci:
    """One sample per line of the chosen splits, in order: an image, and its description as a caption.

    Lines that cannot be read are counted in `damage`.
    """

    def __init__(
        self, name: str, root: Path, rows: Sequence[tuple[str, str, str]], damage: dict[str, str]
    ):
        self.name = name
        self.root = str(root)
        self.damage = damage
        self._keys = Strings(key for key, _, _ in rows)
        self._rows = Strings(json.dumps([image, text]) for _, image, text in rows)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image, text = json.loads(self._rows[index])
        return Sample(
            key=self._keys[index],
            source=self.name,
            images={"main": FileImage(os.path.join(self.root, image))},  # noqa: PTH118
            texts=[Text(text=text)],
        )

    def keys(self) -> Sequence[str]:
        """The ids of the examples."""
        return self._keys

    def schema(self) -> Schema:
        """Images with captions."""
        return {"images.main": Field(kind="image"), "texts.caption": Field(kind="text")}
