"""MathVista (`testmini.json`), We-Math (`testmini.json`) and MM-Math (`MM_Math.jsonl`): questions about
figures and charts.

MathVista has an object of questions by id, each with the path of its image, and choices where there
are some. We-Math has a list, whose choices are one text, "A. 3; B. 4", and the answer is a letter. MM-Math
has JSON lines; the answer is what its solution puts into the last `\\boxed{…}`. The kind of a question
is MathVista's task, We-Math's concept, and MM-Math's difficulty.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, EncodedImage, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.data.sources.rows import JsonRows
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "math-questions"
_MARKS = {
    ".json": (
        (b'"question_type"', b'"precision"', b'"image"'),
        (b'"knowledge concept"', b'"option"', b'"image_path"'),
    ),
    ".jsonl": ((b'"file_name"', b'"question"', b"boxed{"),),
}
_LETTERED = re.compile(r"(?:^|;)\s*([A-Z])\.\s*")  # the beginning of a choice of We-Math
_BOX = "\\boxed{"


@dataclass(frozen=True, kw_only=True)
class MathOptions:
    """Options of a file: `images` is the folder of its images."""

    images: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its first question's fields."""
    ending = Path(spec.name).suffix.lower()
    first = beginning(spec, *_MARKS)
    return bool(first) and any(all(mark in first for mark in marks) for marks in _MARKS[ending])


def open(spec: Spec) -> "MathQuestions":
    """Open `testmini.json[:images=FOLDER]` or `MM_Math.jsonl[:images=FOLDER]`. Raises InputError for
    a file without a question, and for a folder without the first image."""
    options = configure(MathOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    if path.suffix.lower() == ".json":
        data = json_of(path)
        if isinstance(data, dict):
            found = {f"question {key}": _of_mathvista(key, row) for key, row in data.items()}
        else:
            rows = data if isinstance(data, list) else []
            found = {f"question {at}": _of_we_math(row) for at, row in enumerate(rows, 1)}
    else:
        found = {
            f"row {number}": row.reason if isinstance(row, BadSample) else _of_mm_math(row)
            for number, row in enumerate(JsonRows(spec.name).scan(), 1)
        }
    good = [each for each in found.values() if isinstance(each, Question)]
    if not good:
        raise InputError(
            f"{path}: no question in it has a text and the path of an image; compare it with the published file"
        )
    damage = {f"{path}:{place}": bad for place, bad in found.items() if isinstance(bad, str)}
    root, _ = root_of(path, [good[0].image], options.images, ("images", "Image", "data", "image"))
    return MathQuestions(spec.name, root, good, damage)


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is published."""

    key: str
    image: str  # the path inside the folder of images
    question: str
    answer: str  # "" if it is not published
    choices: Sequence[str] = ()
    solution: str = ""
    kind: str = ""


def _of_mathvista(key: str, row: Any) -> Question | str:
    """A question of MathVista, or the reason why it cannot be read."""
    if not isinstance(row, Mapping):
        return "columns"
    choices = row.get("choices") or []
    answer = row.get("answer") or ""
    if not isinstance(choices, list):
        return "columns"
    if not all(isinstance(text, str) for text in (answer, *choices)):
        return "columns"
    about = row.get("metadata")
    return _asked(row, "image") or Question(
        key,
        row["image"],
        row["question"].strip(),
        answer.strip(),
        choices,
        kind=_kind(about.get("task")) if isinstance(about, Mapping) else "",
    )


def _of_we_math(row: Any) -> Question | str:
    """A question of We-Math, or the reason why it cannot be read."""
    if not isinstance(row, Mapping):
        return "columns"
    about = [row.get(name) for name in ("ID", "key", "option", "answer")]
    if not all(isinstance(each, str) for each in about):
        return "columns"
    number, key, option, letter = map(str, about)
    _, *parts = _LETTERED.split(option)
    choices = dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))
    if letter.strip() not in choices:
        return "columns"
    return _asked(row, "image_path") or Question(
        f"{number}/{key}",
        row["image_path"],
        row["question"].strip(),
        choices[letter.strip()],
        [*choices.values()],
        kind=_kind(row.get("knowledge concept")),
    )


def _of_mm_math(row: Mapping[str, Any]) -> Question | str:
    """A question of MM-Math, or the reason why it cannot be read."""
    solution = row.get("solution")
    if not isinstance(solution, str) or not (answer := boxed(solution)):
        return "columns"
    name = row.get("file_name")
    return _asked(row, "file_name") or Question(
        str(name),
        str(name),
        row["question"].strip(),
        answer,
        solution=solution.strip(),
        kind=_kind(row.get("difficult")),
    )


def _kind(value: Any) -> str:
    """A kind of question, "" where it is not told."""
    return value.strip() if isinstance(value, str) else ""


def _asked(row: Mapping[str, Any], image: str) -> str:
    """Why a row has no question or no path inside the folder of images; "" if it has both."""
    question = row.get("question")
    path = row.get(image)
    if not isinstance(question, str) or not isinstance(path, str):
        return "columns"
    return "" if question.strip() and inside(path) else "columns"


def boxed(solution: str) -> str:
    """The contents of the last `\\boxed{…}` of a text, "" if it has none.

    >>> boxed(r"so $AB = \\boxed{\\frac{3}{4}}$ cm")
    '\\\\frac{3}{4}'
    """
    _, found, rest = solution.rpartition(_BOX)
    depth = 1
    for at, letter in enumerate(rest if found else ""):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0:
            return rest[:at].strip()
    return ""


class MathQuestions:
    """One sample per question, in order, with its answer; MM-Math's also has the text `solution`.

    The key is the question's id, or the file of its image. Questions that cannot be read are counted
    in `damage`.
    """

    def __init__(self, name: str, root: Path, asked: Sequence[Question], damage: Mapping[str, str]):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        keys = [each.key for each in asked]
        if len(set(keys)) < len(keys):
            keys = [f"{key}#{number}" for number, key in enumerate(keys, 1)]
        self._keys = Strings(keys)
        self._rows = Strings(
            json.dumps(
                [
                    each.image,
                    each.question,
                    each.answer,
                    list(each.choices),
                    each.solution,
                    each.kind,
                ]
            )
            for each in asked
        )
        self._answered = [bool(each.answer) for each in asked]
        self._solved = [bool(each.solution) for each in asked]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image, question, answer, choices, solution, kind = json.loads(self._rows[index])
        about = {"choices": tuple(choices), "kind": kind}
        asked = Text(
            text=question,
            role="question",
            attrs={name: value for name, value in about.items() if value},
        )
        others = {"answer": answer, "solution": solution}
        return Sample(
            key=self._keys[index],
            source=self.name,
            images={"main": self._image(index, image)},
            texts=(asked, *(Text(text=text, role=role) for role, text in others.items() if text)),
        )

    def _image(self, index: int, path: str) -> EncodedImage:
        return FileImage(os.path.join(self.root, path))  # noqa: PTH118

    def keys(self) -> Sequence[str]:
        """The ids of the questions."""
        return self._keys

    def schema(self) -> Schema:
        """Images and questions; answers and solutions where they are published."""
        found = {"images.main": Field(kind="image"), "texts.question": Field(kind="text")}
        if any(self._answered):
            found["texts.answer"] = Field(kind="text", optional=not all(self._answered))
        if any(self._solved):
            found["texts.solution"] = Field(kind="text", optional=not all(self._solved))
        return found
