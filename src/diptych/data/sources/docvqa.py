"""DocVQA (`train_v1.0.json`, `val_v1.0_withQT.json`): questions about scanned pages, and what was read on
them.

    {"dataset_name": "docvqa", "data": [{"questionId", "question", "image", "docId", "answers"}, …]}
    documents/xnbl0037_1.png
    ocr_results/xnbl0037_1.json    {"recognitionResults": [{"width", "height", "unit", "lines": [{"words": […]}]}]}

The files of OCR are Microsoft's; a box is the least one that holds the four corners of a `boundingBox`.
Those in other units than pixels, such as inches, are scaled by the page's own width and height. The test
split has no answers.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.compact import Strings
from diptych.data.images import FileImage, size_of
from diptych.data.sample import BadSample, Box, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, folder_near, inside, root_of
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "docvqa"
_MARKS = (b'"questionId"', b'"docId"', b'"question"', b'"image"')
_IMAGES = ("documents", "images", "spdocvqa_images")
_OCR = ("ocr_results", "spdocvqa_ocr")


@dataclass(frozen=True, kw_only=True)
class DocVqaOptions:
    """Options: the folders of the images and of the files of OCR, by default those beside the file."""

    images: str | None = None
    ocr: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its first question's fields."""
    first = beginning(spec, ".json")
    return bool(first) and all(mark in first for mark in _MARKS)


def open(spec: Spec) -> "DocVqa":
    """Open `val_v1.0.json[:images=FOLDER][:ocr=FOLDER]`. Raises InputError for a file without such a
    question, for folders that are named and missing, and for one without the first image."""
    options = configure(DocVqaOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    data = json_of(path)
    rows = data.get("data") if isinstance(data, Mapping) else None
    if not isinstance(rows, list):
        raise InputError(f"{path}: it has no list `data` of questions; compare it with DocVQA's")
    pages: dict[str, list[Any]] = {}
    damage = {}
    for number, row in enumerate(rows):
        asked = _read(row)
        if asked is None:
            damage[f"{path}:question {number}"] = "columns"
        else:
            pages.setdefault(row["image"], []).append(asked)
    if not pages:
        raise InputError(f"{path}: no question in it can be read; compare it with DocVQA's")
    first = next(iter(pages))
    names = [first, Path(first).name]
    root, found = root_of(path, names, options.images, _IMAGES)
    return DocVqa(
        spec.name,
        root,
        folder_near(path, root, options.ocr, _OCR),
        pages,
        damage,
        flat=found != first,
    )


def _read(row: Any) -> list[Any] | None:
    """A question, its answers and its number; None if it cannot be read."""
    if not isinstance(row, Mapping) or not isinstance(row.get("question"), str):
        return None
    answers = row.get("answers") or []
    image = row.get("image")
    fits = isinstance(answers, list) and all(isinstance(each, str) for each in answers)
    if not fits or not isinstance(image, str) or not inside(image) or not row["question"].strip():
        return None
    return [
        row["question"].strip(),
        [each for each in answers if each.strip()],
        row.get("questionId"),
    ]


class DocVqa:
    """One sample for each page, in the order of their first questions: its questions with their answers,
    and if there are files of OCR the boxes of its words, and all of them as text of the role `ocr`.

    Questions that cannot be read are counted in `damage`. A page whose file of OCR is missing or cannot
    be read raises BadSample.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        ocr: str,
        pages: Mapping[str, Sequence[Any]],
        damage: Mapping[str, str],
        *,
        flat: bool = False,
    ):
        self.name = name
        self.root = str(root)
        self.ocr = ocr
        self.damage = dict(damage)
        self._keys = Strings(pages)
        self._rows = Strings(map(json.dumps, pages.values()))
        self._flat = flat
        self._answered = all(answers for page in pages.values() for _, answers, _ in page)
        self._any = any(answers for page in pages.values() for _, answers, _ in page)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        key = self._keys[index]
        place = Path(key).name if self._flat else key
        image = FileImage(os.path.join(self.root, place))  # noqa: PTH118
        texts = []
        for question, answers, number in json.loads(self._rows[index]):
            texts.append(Text(text=question, role="question", attrs={"id": number}))
            texts += [Text(text=answer, role="answer") for answer in answers]
        boxes: list[Box] = []
        if self.ocr:
            boxes, text = read_ocr(Path(self.ocr, f"{Path(key).stem}.json"), image)
            texts += [Text(text=text, role="ocr")] if text else []
        return Sample(key=key, source=self.name, images={"main": image}, texts=texts, boxes=boxes)

    def keys(self) -> Sequence[str]:
        """The paths of the pages in the file."""
        return self._keys

    def schema(self) -> Schema:
        """Pages and questions; answers and words where there are any."""
        found = {"images.main": Field(kind="image"), "texts.question": Field(kind="text")}
        if self._any:
            found["texts.answer"] = Field(kind="text", optional=not self._answered)
        if self.ocr:
            found["texts.ocr"] = Field(kind="text", optional=True)
            found["boxes"] = Field(kind="box", optional=True)
        return found


def read_ocr(path: Path, image: FileImage) -> tuple[list[Box], str]:
    """The words of the first page in a file of OCR, as boxes in pixels of its image, and all lines as one
    text.

    Raises BadSample: missing, ocr (it cannot be read).
    """
    try:
        [page, *_] = json.loads(path.read_bytes())["recognitionResults"]
        lines = [line for line in page["lines"] if line["text"].strip()]
        scale = (1.0, 1.0)
        if page.get("unit", "pixel") != "pixel":
            width, height = size_of(image)
            scale = (width / float(page["width"]), height / float(page["height"]))
        boxes = [
            Box(xyxy=_box(word["boundingBox"], scale), text=word["text"].strip())
            for line in lines
            for word in line["words"]
            if word["text"].strip()
        ]
    except FileNotFoundError as error:
        raise BadSample("missing", str(path)) from error
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadSample("ocr", f"{path} is no result of reading a page ({error})") from error
    return boxes, "\n".join(line["text"].strip() for line in lines)


def _box(corners: Sequence[float], scale: tuple[float, float]) -> tuple[float, float, float, float]:
    if len(corners) != 8:
        raise ValueError(f"{len(corners)} numbers are no four corners")
    x = [scale[0] * float(each) for each in corners[0::2]]
    y = [scale[1] * float(each) for each in corners[1::2]]
    return min(x), min(y), max(x), max(y)
