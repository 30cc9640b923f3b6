"""InfographicVQA (`infographicsVQA_train_v1.0.json`): an object whose `data` are questions about
infographics with `questionId`, `question`, `image_local_name` and `answers`, which a test split lacks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.sources._asked import Asked, AskedImages, asked, opened
from diptych.data.sources._files import beginning
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "infovqa"
_MARKS = (b'"question"', b'"image_local_name"')
_FOLDERS = ("infographicsvqa_images", "images", "png")


@dataclass(frozen=True, kw_only=True)
class InfoVQAOptions:
    """Options of a file: `images` is the folder of its images."""

    images: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its first object's fields."""
    first = beginning(spec, ".json")
    return bool(first) and all(mark in first for mark in _MARKS)


def open(spec: Spec) -> AskedImages:
    """Open `infographicsVQA_train_v1.0.json[:images=FOLDER]`; `data` may also be a list by itself. Raises
    InputError for a file without a question, and for a folder without the first image."""
    options = configure(InfoVQAOptions, spec.options, f"source {spec.name!r}")
    data = json_of(Path(spec.name))
    rows = data.get("data") if isinstance(data, Mapping) else data
    if not isinstance(rows, list):
        raise InputError(
            f"{spec.name}: it has no list of questions, data; compare it with InfographicVQA's files"
        )
    found = [_read(row) for row in rows]
    return opened(spec.name, found, options.images, _FOLDERS, "InfographicVQA's files")


def _read(row: Any) -> Asked | str:
    if not isinstance(row, Mapping):
        return "columns"
    number = row.get("questionId", row.get("question_id"))
    answers = row.get("answers") or []
    return asked(number, row.get("image_local_name"), row.get("question"), answers)
