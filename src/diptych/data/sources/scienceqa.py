"""ScienceQA (`problems.json`): questions of school science with choices, some about an image.

The file has an object of questions by number. The image of one is in `images/SPLIT/NUMBER/`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import EncodedImage, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "scienceqa"
_MARKS = (b'"question"', b'"choices"', b'"hint"', b'"lecture"')


@dataclass(frozen=True, kw_only=True)
class ScienceQaOptions:
    """Options of `problems.json`: the `split`, the folder of `images`, and whether questions `without`
    an image are read too."""

    split: Literal["train", "val", "test", "all"] = "all"
    images: str | None = None
    without: bool = False


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its first question's fields."""
    first = beginning(spec, ".json")
    return bool(first) and all(mark in first for mark in _MARKS)


def open(spec: Spec) -> "ScienceQa":
    """Open `problems.json[:split=test][:images=FOLDER][:without=true]`. Raises InputError for a file
    without such a question, and for a folder without the first image."""
    options = configure(ScienceQaOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    data = json_of(path)
    if not isinstance(data, Mapping):
        raise InputError(
            f"{path}: it is no object of questions by number; compare it with ScienceQA's"
        )
    good = []
    damage = {}
    for number, row in data.items():
        found = _read(str(number), row)
        if isinstance(found, str):
            damage[f"{path}:question {number}"] = found
        elif options.split in ("all", found.split) and (found.image or options.without):
            good.append(found)
    if not good:
        raise InputError(
            f"{path}: no question of the split {options.split!r} has an image and choices; choose another split, or "
            "add :without=true for questions without an image"
        )
    first = next((each.image for each in good if each.image), "")
    root = root_of(path, [first], options.images, ("images",))[0] if first else path.parent
    return ScienceQa(spec.name, root, good, damage)


@dataclass(frozen=True, slots=True)
class _Problem:
    key: str
    split: str
    image: str  # "" if there is none
    question: str
    choices: Sequence[str]
    answer: int
    texts: Mapping[str, str]


def _read(key: str, row: Any) -> _Problem | str:
    """A question, or the reason why it cannot be read."""
    if not isinstance(row, Mapping):
        return "columns"
    texts = {name: row.get(name) or "" for name in ("question", "hint", "lecture", "solution")}
    split = row.get("split")
    image = row.get("image") or ""
    choices = row.get("choices")
    if not all(isinstance(text, str) for text in (*texts.values(), split, image)):
        return "columns"
    if not isinstance(choices, list) or not all(isinstance(each, str) for each in choices):
        return "columns"
    answer = row.get("answer")
    if type(answer) is not int or not 0 <= answer < len(choices):
        return "answer"
    if not texts["question"].strip() or (image and not inside(image)):
        return "columns"
    question = " ".join(texts[name].strip() for name in ("hint", "question") if texts[name].strip())
    others = {name: texts[name].strip() for name in ("lecture", "solution")}
    place = f"{split}/{key}/{image}" if image else ""
    return _Problem(key, str(split), place, question, choices, answer, others)


class ScienceQa:
    """One sample per question, in order, with its choices, its answer, and the texts `lecture` and
    `solution` where it has them. What a question gives as a hint stands before it.

    Questions that cannot be read are counted in `damage`.
    """

    def __init__(
        self, name: str, root: Path, problems: Sequence[_Problem], damage: Mapping[str, str]
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self._keys = Strings(each.key for each in problems)
        self._rows = Strings(
            json.dumps([each.image, each.question, each.choices, each.answer, each.texts])
            for each in problems
        )
        self._seen = [bool(each.image) for each in problems]
        self._told = {
            role: [bool(each.texts[role]) for each in problems] for role in ("lecture", "solution")
        }

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image, question, choices, answer, others = json.loads(self._rows[index])
        images: dict[str, EncodedImage] = {}
        if image:
            images["main"] = FileImage(os.path.join(self.root, image))  # noqa: PTH118
        texts = (
            Text(text=question, role="question", attrs={"choices": tuple(choices)}),
            Text(text=choices[answer], role="answer"),
            *(Text(text=text, role=role) for role, text in others.items() if text),
        )
        return Sample(key=self._keys[index], source=self.name, images=images, texts=texts)

    def keys(self) -> Sequence[str]:
        """The numbers of the questions."""
        return self._keys

    def schema(self) -> Schema:
        """Questions with answers; images, lectures and solutions where there are any."""
        found: dict[str, Field] = {}
        if any(self._seen):
            found["images.main"] = Field(kind="image", optional=not all(self._seen))
        found |= {f"texts.{role}": Field(kind="text") for role in ("question", "answer")}
        for role, told in self._told.items():
            if any(told):
                found[f"texts.{role}"] = Field(kind="text", optional=not all(told))
        return found
