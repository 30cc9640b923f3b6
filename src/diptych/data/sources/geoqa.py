"""GeoQA and GeoQA+ (`train.pk`, `Mix-train.pk`, `new-test.pk`): questions about figures with choices.

A file is a pickled list of dicts:

    id            a number or a text
    image         pixels, an array of uint8 (H, W) or (H, W, 3)
    subject       the question, in Chinese
    choices       a text or a number each
    label         the position of the right one
    answer        how it is solved, a text; may be missing

Other fields (tokens, programs, points of knowledge) are not read. Nothing of a pickle is run
(`_plain_pickle`). Images stay in memory, as PNG.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.compact import is_folder
from diptych.data.decode import MAX_PIXELS
from diptych.data.images import BytesImage
from diptych.data.sample import EncodedImage
from diptych.data.sources._plain_pickle import Wrapped, load
from diptych.data.sources.math_questions import MathQuestions, Question
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "geoqa"


@dataclass(frozen=True, kw_only=True)
class GeoQAOptions:
    """A file of questions has no options."""


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its suffix."""
    return spec.name.lower().endswith(".pk") and not is_folder(spec)


def open(spec: Spec) -> "GeoQA":
    """Open `train.pk`. Raises InputError for a file without a question, one that is damaged, and one
    that would run code."""
    configure(GeoQAOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    with path.open("rb") as file:
        rows = load(file, str(path))
    if not isinstance(rows, list):
        raise InputError(
            f"{path}: holds a {type(rows).__name__}; it needs a list of questions, as GeoQA's"
        )
    asked: list[Question] = []
    images: list[bytes] = []
    damage: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        found = _of_row(row)
        if isinstance(found, str):
            damage[f"{path}:question {number}"] = found
            continue
        asked.append(found[0])
        images.append(found[1])
    if not asked:
        raise InputError(
            f"{path}: none of its {len(rows)} entries has `image`, `subject`, `choices` and `label`; compare it with "
            "the published file"
        )
    return GeoQA(spec.name, asked, images, damage)


def _of_row(row: Any) -> tuple[Question, bytes] | str:
    """A question with its image, or the reason why it cannot be read."""
    if not isinstance(row, Mapping):
        return "columns"
    question = row.get("subject")
    choices = row.get("choices")
    label = row.get("label")
    if not isinstance(question, str) or not question.strip() or not isinstance(choices, list):
        return "columns"
    if not all(isinstance(each, str | int | float) for each in choices):
        return "columns"
    if not isinstance(label, int) or not 0 <= label < len(choices):
        return "columns"
    pixels = _pixels(row.get("image"))
    if pixels is None:
        return "corrupt"
    told = [str(each).strip() for each in choices]
    solution = row.get("answer")
    asked = Question(
        key=str(row.get("id", ""))[:100],
        image="",
        question=question.strip(),
        answer=told[label],
        choices=told,
        solution=solution.strip() if isinstance(solution, str) else "",
    )
    return asked, _png(pixels)


def _pixels(array: Any) -> np.ndarray | None:
    """The array behind the placeholder of a pickled image; None if it is no image of uint8."""
    if not isinstance(array, Wrapped):
        return None
    try:
        _, shape, kind, columns_first, data = array.state
        right = kind.args[0] == "u1" and isinstance(data, bytes) and not columns_first
        grey = len(shape) == 2
        if not right or not (grey or (len(shape) == 3 and shape[2] == 3)):
            return None
        if not 0 < shape[0] * shape[1] <= MAX_PIXELS:
            return None
        return np.frombuffer(data, np.uint8).reshape(shape)
    except (AttributeError, TypeError, ValueError, IndexError):
        return None


def _png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


class GeoQA(MathQuestions):
    """One sample per question, in order, with its choices, the right one as its answer, and the text
    `solution`.

    The key is the question's id. Questions that cannot be read are counted in `damage`.
    """

    def __init__(
        self,
        name: str,
        asked: Sequence[Question],
        images: Sequence[bytes],
        damage: Mapping[str, str],
    ):
        super().__init__(name, Path(), asked, damage)
        self._images = list(images)

    def _image(self, index: int, path: str) -> EncodedImage:
        return BytesImage(self._images[index])
