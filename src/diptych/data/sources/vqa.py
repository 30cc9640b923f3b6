"""VQA v2 (`v2_OpenEnded_mscoco_val2014_questions.json`) and VQA-E (`VQA-E_val_set.json`): questions
about COCO's images with the answers of several people.

VQA v2's answers are in `v2_mscoco_val2014_annotations.json` next to the questions, COCO's captions
in `captions_val2014.json`. VQA-E has an explanation of each answer, which is used as caption.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import EncodedImage, Field, Sample, Schema, Text
from diptych.data.sources.records import json_of
from diptych.errors import InputError, brief
from diptych.spec import Spec, configure

FORMAT = "vqa"
_SPLIT = re.compile(r"(train|val|test)(\d{4})?")


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its name."""
    name = os.path.basename(spec.name).lower()  # noqa: PTH119  (Path may raise for long texts)
    named = name.endswith("_questions.json") or (
        name.startswith("vqa-e") and name.endswith(".json")
    )
    return named and not is_folder(spec)


@dataclass(frozen=True, kw_only=True)
class VqaOptions:
    """Options: files of answers and captions, and the folder of COCO's images."""

    annotations: str | None = None
    image_captions: str | None = None
    images: str | None = None


def open(spec: Spec) -> "Vqa":
    """Open
    `v2_OpenEnded_mscoco_val2014_questions.json[:annotations=FILE][:image_captions=FILE][:images=FOLDER]`,
    or a file of VQA-E.

    Files that are not found next to it are left out; without images the source has only texts.
    """
    options = configure(VqaOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    data = json_of(path)
    word = _word(path)
    try:
        if isinstance(data, list):
            asked, damage, captions = _explained(data, path)
        else:
            asked, damage = _questions(data, path, options)
            captions = _captions(path, word, options.image_captions)
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(
            f"{path}: a question, answer or caption lacks {brief(error)}; compare it with VQA's own files"
        ) from error
    if not asked:
        raise InputError(f"{path}: no question in it can be used; compare it with VQA's own files")
    root = _root(path, word, _image(word, asked[0].image), options.images)
    return Vqa(spec.name, word, root, asked, captions, damage)


@dataclass(frozen=True, slots=True)
class _Asked:
    key: str
    image: int
    question: str
    answers: Sequence[str]
    about: int  # the owner of captions: the image, or in VQA-E the entry


def _word(path: Path) -> str:
    """COCO's name of the split, such as val2014."""
    found = _SPLIT.search(path.name)
    if not found:
        raise InputError(
            f"{path}: its name tells no split; call it as published, with train2014, val2014 or test2015"
        )
    return found[1] + (found[2] or "2014")


def _questions(data: Any, path: Path, options: VqaOptions) -> tuple[list[_Asked], dict[str, str]]:
    """VQA v2's questions with their answers, and damage by place."""
    beside = path.with_name(
        path.name.replace("OpenEnded_", "").replace("_questions", "_annotations")
    )
    file = Path(options.annotations) if options.annotations is not None else beside
    answers: dict[Any, list[Any]] | None = None
    if options.annotations is not None or file.is_file():
        answers = {
            each["question_id"]: [one["answer"] for one in each["answers"]]
            for each in json_of(file)["annotations"]
        }
    found = []
    damage = {}
    for each in data["questions"]:
        number = each["question_id"]
        given = [] if answers is None else answers.get(each["question_id"])
        if given is None:
            damage[f"{path}:question {number}"] = "missing"
        elif not isinstance(each["question"], str) or not all(
            isinstance(one, str) for one in given
        ):
            damage[f"{path}:question {number}"] = "columns"
        elif not 0 <= int(each["image_id"]) < 2**63:
            damage[f"{path}:question {number}"] = "number"
        else:
            found.append(
                _Asked(
                    str(number),
                    int(each["image_id"]),
                    each["question"],
                    given,
                    int(each["image_id"]),
                )
            )
    return found, damage


def _explained(
    data: Sequence[Any], path: Path
) -> tuple[list[_Asked], dict[str, str], dict[int, list[str]]]:
    """VQA-E's entries, damage by place, and the explanation of each entry.

    In the file, an explanation is followed by its confidence.
    """
    found = []
    damage = {}
    captions = {}
    for at, each in enumerate(data):
        texts = [each["question"], each["explanation"][0], *each["answers"]]
        if not 0 <= int(each["img_id"]) < 2**63:
            damage[f"{path}:entry {at + 1}"] = "number"
        elif all(isinstance(text, str) for text in texts):
            captions[at] = [texts[1].strip()]
            found.append(
                _Asked(f"{int(each['img_id'])}-{at}", int(each["img_id"]), texts[0], texts[2:], at)
            )
        else:
            damage[f"{path}:entry {at + 1}"] = "columns"
    return found, damage, captions


def _captions(path: Path, word: str, given: str | None) -> dict[int, list[str]]:
    """COCO's captions by image, from `given` or the usual file next to the questions; empty without
    it."""
    file = Path(given) if given is not None else path.with_name(f"captions_{word}.json")
    if given is None and not file.is_file():
        return {}
    found: dict[int, list[str]] = {}
    for each in json_of(file)["annotations"]:
        found.setdefault(int(each["image_id"]), []).append(str(each["caption"]).strip())
    return found


def _image(word: str, image: int) -> str:
    """COCO's file name of an image of 2014 or 2015."""
    return f"COCO_{word}_{image:012d}.jpg"


def _root(path: Path, word: str, first: str, images: str | None) -> str | None:
    """The folder of the images: `images`, or a usual one near the file; None if there is none."""
    near = [
        base / below
        for base in (path.parent, path.parent.parent)
        for below in (word, f"images/{word}", "images")
    ]
    for folder in [Path(images)] if images is not None else near:
        if (folder / first).is_file():
            return str(folder)
    if images is not None:
        raise InputError(
            f"{path}: its first image, {first}, is not in {images}; name COCO's folder {word}"
        )
    return None


class Vqa:
    """One sample per question, with its answers and the captions of its image.

    Values that are no text are counted in `damage` as columns, questions without answers as
    missing.
    """

    def __init__(
        self,
        name: str,
        word: str,
        root: str | None,
        asked: Sequence[_Asked],
        captions: Mapping[int, Sequence[str]],
        damage: Mapping[str, str],
    ):
        self.name = name
        self.word = word
        self.root = root
        self.damage = damage
        self._keys = Strings(each.key for each in asked)
        self._questions = Strings(each.question for each in asked)
        self._image = np.array([each.image for each in asked], np.int64)
        self._answers = Strings(answer for each in asked for answer in each.answers)
        self._answered = np.cumsum([len(each.answers) for each in asked], dtype=np.int64)
        self._captions = Strings(text for texts in captions.values() for text in texts)
        self._ends = np.cumsum([0, *map(len, captions.values())], dtype=np.int64)
        place = {about: at for at, about in enumerate(captions, 1)}
        self._about = np.array([place.get(each.about, 0) for each in asked], np.int64)
        self._optional = {
            "caption": (bool(self._about.any()), not self._about.all()),
            "answer": (len(self._answers) > 0, not all(each.answers for each in asked)),
        }

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        images: dict[str, EncodedImage] = {}
        if self.root is not None:
            images["main"] = FileImage(
                str(Path(self.root, _image(self.word, int(self._image[index]))))
            )
        captions = [
            Text(text=self._captions[at])
            for at in range(*_span(self._ends, int(self._about[index])))
        ]
        answers = [
            Text(text=self._answers[at], role="answer")
            for at in range(*_span(self._answered, index))
        ]
        return Sample(
            key=self._keys[index],
            source=self.name,
            images=images,
            texts=(*captions, Text(text=self._questions[index], role="question"), *answers),
        )

    def keys(self) -> Sequence[str]:
        """The ids of the questions."""
        return self._keys

    def schema(self) -> Schema:
        """Questions; answers, captions and images if they were found."""
        found = {} if self.root is None else {"images.main": Field(kind="image")}
        for role, (there, optional) in self._optional.items():
            if there:
                found[f"texts.{role}"] = Field(kind="text", optional=optional)
        return {**found, "texts.question": Field(kind="text")}


def _span(ends: np.ndarray, index: int) -> tuple[int, int]:
    return int(ends[index - 1]) if index else 0, int(ends[index])
