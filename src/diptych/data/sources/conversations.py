"""Conversations about images, as LLaVA has them (`llava_v1_5_mix665k.json`): a list of objects with
`id`, `image` and `conversations`, whose turns are `from` a human or gpt and have a `value`.

A human's turn is a question, without the mark of the image, and the turn behind it its answer. With
`role=caption` the first answer is a caption, and nothing is asked (`blip_laion_cc_sbu_558k.json`).
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

FORMAT = "conversations"
_MARKS = (b'"conversations"', b'"from"', b'"value"')
_IMAGE = "<image>"
_ROLES = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer"}


@dataclass(frozen=True, kw_only=True)
class ConversationOptions:
    """Options of a file: `images` is the folder of its images, `role` what answers are."""

    images: str | None = None
    role: Literal["answer", "caption"] = "answer"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its first object's fields."""
    first = beginning(spec, ".json")
    if b'"positive_image_path"' in first:  # MM-Math-Align, which has conversations too
        return False
    return bool(first) and all(mark in first for mark in _MARKS)


def open(spec: Spec) -> "Conversations":
    """Open `FILE.json[:images=FOLDER][:role=caption]`. Raises InputError for a file without a
    conversation, and for a folder without the first image."""
    options = configure(ConversationOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    data = json_of(path)
    if not isinstance(data, list):
        raise InputError(f"{path}: it is no list of conversations; compare it with LLaVA's files")
    found = {f"entry {number}": _read(row) for number, row in enumerate(data, 1)}
    good = [each for each in found.values() if isinstance(each, _Talk)]
    if not good:
        raise InputError(
            f"{path}: no entry has a question with an answer; compare it with LLaVA's files"
        )
    damage = {f"{path}:{place}": bad for place, bad in found.items() if isinstance(bad, str)}
    first = next((each.image for each in good if each.image), "")
    root = root_of(path, [first], options.images, ("images", "data"))[0] if first else path.parent
    return Conversations(spec.name, root, good, damage, options.role == "caption")


@dataclass(frozen=True, slots=True)
class _Talk:
    key: str
    image: str  # "" if there is none
    turns: Sequence[tuple[str, str]]  # questions with their answers


def _read(row: Any) -> _Talk | str:
    """A conversation, or the reason why it cannot be read.

    An answer before the first question, and a question without an answer behind all others, are left
    out.
    """
    if not isinstance(row, Mapping) or not isinstance(row.get("conversations"), list):
        return "columns"
    image = row.get("image") or ""
    if not isinstance(image, str) or (image and not inside(image)):
        return "columns"
    said = []
    for turn in row["conversations"]:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
            return "columns"
        role = _ROLES.get(str(turn.get("from")))
        if role is None:
            return "columns"
        said.append((role, turn["value"].replace(_IMAGE, "").strip()))
    if said and said[0][0] == "answer":
        said = said[1:]
    roles = [role for role, _ in said]
    if roles != ["question", "answer"] * (len(roles) // 2) + ["question"] * (len(roles) % 2):
        return "turns"
    texts = [text for _, text in said]
    turns = list(zip(texts[::2], texts[1::2], strict=False))
    if not turns or not all(answer for _, answer in turns):
        return "no-answer"
    return _Talk(str(row.get("id", "")), image, turns)


class Conversations:
    """One sample per conversation, in order, with its questions and answers, or its caption.

    The key is the entry's id. Entries that cannot be read are counted in `damage`.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        talks: Sequence[_Talk],
        damage: Mapping[str, str],
        captions: bool,
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self.captions = captions
        keys = [each.key or f"entry {number}" for number, each in enumerate(talks, 1)]
        if len(set(keys)) < len(keys):
            keys = [f"{key}#{number}" for number, key in enumerate(keys, 1)]
        self._keys = Strings(keys)
        self._rows = Strings(json.dumps([each.image, each.turns]) for each in talks)
        self._seen = [bool(each.image) for each in talks]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image, turns = json.loads(self._rows[index])
        images: dict[str, EncodedImage] = {}
        if image:
            images["main"] = FileImage(os.path.join(self.root, image))  # noqa: PTH118
        texts = [Text(text=turns[0][1])]
        if not self.captions:
            texts = [
                Text(text=text, role=role)
                for turn in turns
                for role, text in zip(("question", "answer"), turn, strict=True)
            ]
        return Sample(key=self._keys[index], source=self.name, images=images, texts=texts)

    def keys(self) -> Sequence[str]:
        """The ids of the conversations."""
        return self._keys

    def schema(self) -> Schema:
        """Images where there are any, and questions with answers, or captions."""
        found: dict[str, Field] = {}
        if any(self._seen):
            found["images.main"] = Field(kind="image", optional=not all(self._seen))
        for role in ("caption",) if self.captions else ("question", "answer"):
            found[f"texts.{role}"] = Field(kind="text")
        return found
