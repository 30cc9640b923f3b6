"""What readers of questions about images share: rows of a file, each a question with its image and its
answers, as a source."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import Box, Field, Sample, Schema, Text
from diptych.data.sources._files import folder_near, inside, root_of
from diptych.errors import InputError


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about an image, by its path, with its answers (none in a test split), and the file of
    what was read in the image, if there is one."""

    key: str
    image: str
    question: str
    answers: Sequence[str]
    ocr: str = ""


def asked(key: Any, image: Any, question: Any, answers: Any, ocr: str = "") -> Asked | str:
    """The question of a row, or the reason why it cannot be read."""
    texts = [image, question, *answers] if isinstance(answers, list) else [None]
    if not all(isinstance(text, str) for text in texts) or not isinstance(key, str | int):
        return "columns"
    if not inside(image) or not question.strip():
        return "columns"
    return Asked(str(key), image, question, [text for text in answers if text.strip()], ocr)


Read = Callable[[Path, FileImage], tuple[list[Box], str]]
"""Reads the words of an image, as boxes in its pixels, and all of its text from a file."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Where the files of OCR of a source may be: the folder that is `given`, or one of `folders` near it."""

    read: Read
    folders: Sequence[str]
    given: str | None


def opened(
    name: str,
    rows: Sequence[Asked | str],
    images: str | None,
    folders: Sequence[str],
    compare: str,
    words: Words | None = None,
) -> "AskedImages":
    """The source of a file's rows. `images` is the folder of its images, else one of `folders` near it;
    `words` says how and where what was read in them is found.

    Raises InputError if no row can be read, if the first image is not there, and for a folder of `words`
    that is given and is not there.
    """
    path = Path(name)
    good = [row for row in rows if isinstance(row, Asked)]
    if not good:
        raise InputError(
            f"{path}: no entry has an image with a question; compare it with {compare}"
        )
    damage = {
        f"{path}:entry {number}": row for number, row in enumerate(rows, 1) if isinstance(row, str)
    }
    root, _ = root_of(path, [good[0].image], images, folders)
    if words is None:
        return AskedImages(name, root, good, damage)
    ocr = folder_near(path, root, words.given, words.folders)
    return AskedImages(name, root, good, damage, ocr, words.read)


class AskedImages:
    """One sample per question, in the order of the file, with its image and answers, and where a file of
    OCR is there the boxes of its words, and its text of the role `ocr`. Rows that cannot be read are
    counted in `damage`; a file of OCR that cannot be read raises BadSample."""

    def __init__(
        self,
        name: str,
        root: Path,
        rows: Sequence[Asked],
        damage: Mapping[str, str],
        ocr: str = "",
        read: Read | None = None,
    ):
        self.name = name
        self.ocr = ocr
        self._read = read
        self.root = str(root)
        self.damage = dict(damage)
        keys = [row.key for row in rows]
        if len(set(keys)) < len(keys):
            keys = [f"{key}#{number}" for number, key in enumerate(keys, 1)]
        self._keys = Strings(keys)
        self._rows = Strings(
            json.dumps([row.image, row.ocr, row.question, *row.answers]) for row in rows
        )
        self._answered = [bool(row.answers) for row in rows]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        name, words, question, *answers = json.loads(self._rows[index])
        image = FileImage(os.path.join(self.root, name))  # noqa: PTH118
        texts = [
            Text(text=question, role="question"),
            *(Text(text=answer, role="answer") for answer in answers),
        ]
        boxes: list[Box] = []
        path = Path(self.ocr, words)
        if self._read is not None and self.ocr and words and path.is_file():
            boxes, text = self._read(path, image)
            texts += [Text(text=text, role="ocr")] if text else []
        return Sample(
            key=self._keys[index],
            source=self.name,
            images={"main": image},
            texts=texts,
            boxes=boxes,
        )

    def keys(self) -> Sequence[str]:
        """The ids of the questions."""
        return self._keys

    def schema(self) -> Schema:
        """Images and questions, and answers and words where there are any."""
        found = {"images.main": Field(kind="image"), "texts.question": Field(kind="text")}
        if any(self._answered):
            found["texts.answer"] = Field(kind="text", optional=not all(self._answered))
        if self.ocr:
            found["texts.ocr"] = Field(kind="text", optional=True)
            found["boxes"] = Field(kind="box", optional=True)
        return found
