"""InfographicVQA (`infographicsVQA_train_v1.0.json`): an object whose `data` are questions about
infographics with `questionId`, `question`, `image_local_name` and `answers`, which a test split lacks.

    infographicsvqa_images/37313.jpeg
    infographicsvqa_ocr/37313.json       what was read in it, by Amazon Textract (`_textract`): `ocr_output_file`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.sources._asked import Asked, AskedImages, Words, asked, opened
from diptych.data.sources._files import beginning, inside
from diptych.data.sources._textract import read_words
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "infovqa"
_MARKS = (b'"question"', b'"image_local_name"')
_FOLDERS = ("infographicsvqa_images", "images", "png")
_OCR = ("infographicsvqa_ocr", "ocr")


@dataclass(frozen=True, kw_only=True)
class InfoVQAOptions:
    """Options of a file: the folders of its images and of the files of OCR, by default those near it."""

    images: str | None = None
    ocr: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its first object's fields."""
    first = beginning(spec, ".json")
    return bool(first) and all(mark in first for mark in _MARKS)


def open(spec: Spec) -> AskedImages:
    """Open `infographicsVQA_train_v1.0.json[:images=FOLDER][:ocr=FOLDER]`; `data` may also be a list by
    itself. Raises InputError for a file without a question, for a folder without the first image, and for
    a folder of OCR that is not there."""
    options = configure(InfoVQAOptions, spec.options, f"source {spec.name!r}")
    data = json_of(Path(spec.name))
    rows = data.get("data") if isinstance(data, Mapping) else data
    if not isinstance(rows, list):
        raise InputError(
            f"{spec.name}: it has no list of questions, data; compare it with InfographicVQA's files"
        )
    found = [_read(row) for row in rows]
    words = Words(read=read_words, folders=_OCR, given=options.ocr)
    return opened(spec.name, found, options.images, _FOLDERS, "InfographicVQA's files", words)


def _read(row: Any) -> Asked | str:
    if not isinstance(row, Mapping):
        return "columns"
    number = row.get("questionId", row.get("question_id"))
    answers = row.get("answers") or []
    image = row.get("image_local_name")
    ocr = row.get("ocr_output_file") or (
        f"{Path(image).stem}.json" if isinstance(image, str) else ""
    )
    if not isinstance(ocr, str) or (ocr and not inside(ocr)):
        return "columns"
    return asked(number, image, row.get("question"), answers, ocr)
