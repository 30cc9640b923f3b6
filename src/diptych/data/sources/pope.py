"""Yes/no questions about objects, as POPE has them (`coco_pope_random.json`): JSON lines with `question_id`,
`image`, `text` and `label`, yes or no.

A sample is an image with all its questions, in order, each with its answer.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.rows import JsonRows
from diptych.spec import Spec, configure

FORMAT = "pope"
_FIELDS = ("image", "text", "label")
_ANSWERS = ("yes", "no")


@dataclass(frozen=True, kw_only=True)
class PopeOptions:
    """Options of a file: `images` is the folder of its images."""

    images: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the fields of its first line, whose label is yes or no."""
    line, *_ = beginning(spec, ".json", ".jsonl").split(b"\n", 1)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: nested deeply
        return False
    return isinstance(row, Mapping) and "question_id" in row and isinstance(_read(row), tuple)


def open(spec: Spec) -> "Pope":
    """Open `FILE[:images=FOLDER]`. Raises InputError for a folder without the first image."""
    options = configure(PopeOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    asked: dict[str, list[tuple[str, str]]] = {}
    damage = {}
    for number, row in enumerate(JsonRows(spec.name).scan(), 1):
        found = row.reason if isinstance(row, BadSample) else _read(row)
        if isinstance(found, str):
            damage[f"{path}:line {number}"] = found
        else:
            image, *turn = found
            asked.setdefault(image, []).append((turn[0], turn[1]))
    first = next(iter(asked))  # of the line by which it was claimed
    root, _ = root_of(path, [first], options.images, ("val2014", "images"))
    return Pope(spec.name, root, asked, damage)


def _read(row: Mapping[str, Any]) -> tuple[str, str, str] | str:
    """The image, the question and the answer of a line, or the reason why it cannot be read."""
    image, text, label = (row.get(name) for name in _FIELDS)
    if not isinstance(image, str) or not isinstance(text, str) or not isinstance(label, str):
        return "columns"
    answer = label.strip().lower()
    if answer not in _ANSWERS or not text.strip() or not inside(image):
        return "columns"
    return image, text.strip(), answer


class Pope:
    """One sample per image, in the order of its first question; the name of the image is the key. Lines
    that cannot be read are counted in `damage`."""

    def __init__(
        self,
        name: str,
        root: Path,
        asked: Mapping[str, Sequence[tuple[str, str]]],
        damage: Mapping[str, str],
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self._keys = Strings(asked)
        self._turns = Strings(json.dumps(turns) for turns in asked.values())

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        texts = [
            Text(text=text, role=role)
            for turn in json.loads(self._turns[index])
            for role, text in zip(("question", "answer"), turn, strict=True)
        ]
        image = FileImage(os.path.join(self.root, self._keys[index]))  # noqa: PTH118
        return Sample(key=self._keys[index], source=self.name, images={"main": image}, texts=texts)

    def keys(self) -> Sequence[str]:
        """The names of the images."""
        return self._keys

    def schema(self) -> Schema:
        """Images, questions and answers."""
        return {
            "images.main": Field(kind="image"),
            "texts.question": Field(kind="text"),
            "texts.answer": Field(kind="text"),
        }
