"""ChartQA (`train_human.json`, `train_augmented.json`): a list of questions about charts with `imgname`,
`query` and `label`, the answer. The images are in the folder `png` beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.sources._asked import Asked, AskedImages, asked, opened
from diptych.data.sources._files import beginning
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "chartqa"
_MARKS = (b'"imgname"', b'"query"')


@dataclass(frozen=True, kw_only=True)
class ChartQAOptions:
    """Options of a file: `images` is the folder of its images."""

    images: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its first object's fields."""
    first = beginning(spec, ".json")
    return bool(first) and all(mark in first for mark in _MARKS)


def open(spec: Spec) -> AskedImages:
    """Open `train_human.json[:images=FOLDER]`. Raises InputError for a file without a question, and for a
    folder without the first image."""
    options = configure(ChartQAOptions, spec.options, f"source {spec.name!r}")
    data = json_of(Path(spec.name))
    if not isinstance(data, list):
        raise InputError(
            f"{spec.name}: it is no list of questions; compare it with ChartQA's files"
        )
    found = [_read(row) for row in data]
    return opened(spec.name, found, options.images, ("png", "images"), "ChartQA's files")


def _read(row: Any) -> Asked | str:
    if not isinstance(row, Mapping):
        return "columns"
    label = row.get("label")
    if isinstance(label, int | float) and not isinstance(label, bool):
        label = str(label)
    answers = [] if label is None else [label]
    return asked(row.get("imgname"), row.get("imgname"), row.get("query"), answers)
