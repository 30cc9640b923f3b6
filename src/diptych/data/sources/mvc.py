"""Visual counterfactual pairs as MVC has them (S-VCO, ACL 2025): a JSON list, or JSON lines, of

    instruction_prompt                       a question, which both images answer
    chosen_images, chosen_response           a list with the path of an image, and what is true of it
    rejected_images, rejected_response       the other image, which differs in a detail, and its own
    system_prompt                            what is said before all questions

A row is a sample with the other image as its edit. Their texts have the roles question and answer, or
caption in a row that asks nothing; the prompt before questions has the role system. `kind`, which
`write` adds, is the kind of the edit; without it it is called contrast.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema, Source, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.data.sources.rows import JsonRows
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.spec import Spec, configure

FORMAT = "mvc"
FILE = "contrast.json"
KIND = "contrast"
"""The kind of an edit without one."""
_MARKS = (b'"chosen_images"', b'"rejected_images"')
_IMAGE = "<image>"
_MEMBERS = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Options of a file: `images` is the folder of its images."""

    images: str | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    images: tuple[str, str]
    question: str  # "" if none is asked
    responses: tuple[str, str]
    system: str
    kind: str


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a JSON file whose first object has chosen and rejected images."""
    first = beginning(spec, ".json", ".jsonl")
    return bool(first) and all(mark in first for mark in _MARKS)


def open(spec: Spec) -> "ContrastPairs":
    """Open `FILE[:images=FOLDER]`. Raises InputError for a file without a pair, and for a folder without
    the first image."""
    options = configure(PairOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    rows = list(JsonRows(spec.name).scan()) if path.suffix.lower() == ".jsonl" else json_of(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: it is no list of pairs; compare it with the published file")
    read = [_read(row) for row in rows]
    good = [each for each in read if isinstance(each, _Row)]
    if not good:
        raise InputError(
            f"{path}: no row has an image and a response on both sides; compare it with the published file"
        )
    damage = {
        f"{path}:row {number}": bad for number, bad in enumerate(read) if isinstance(bad, str)
    }
    numbers = [number for number, each in enumerate(read) if isinstance(each, _Row)]
    root, _ = root_of(path, [good[0].images[0]], options.images, ("images", "data"))
    return ContrastPairs(spec.name, root, good, numbers, damage)


def _read(row: Any) -> _Row | str:
    """A pair, or the reason why it cannot be read."""
    if isinstance(row, BadSample):
        return row.reason
    if not isinstance(row, Mapping):
        return "columns"
    texts: list[Any] = [row.get(f"{member}_response") for member in _MEMBERS]
    more = [row.get(name, "") for name in ("instruction_prompt", "system_prompt", "kind")]
    if not all(isinstance(text, str) for text in (*texts, *more)):
        return "columns"
    paths = []
    for member in _MEMBERS:
        named = row.get(f"{member}_images")
        named = [named] if isinstance(named, str) else named
        if not isinstance(named, list) or not all(isinstance(path, str) for path in named):
            return "columns"
        if len(named) != 1:  # a response to several images
            return "images"
        paths += named
    if not all(map(inside, paths)):
        return "columns"
    said = tuple(text.strip() for text in texts)
    if not all(said) or said[0] == said[1]:
        return "no-contrast"
    question, system, kind = (text.replace(_IMAGE, "").strip() for text in more)
    return _Row((paths[0], paths[1]), question, (said[0], said[1]), system, kind or KIND)


class ContrastPairs:
    """One sample per row, in order, whose key is the row's number. Rows that cannot be read are counted
    in `damage`."""

    def __init__(
        self,
        name: str,
        root: Path,
        rows: Sequence[_Row],
        numbers: Sequence[int],
        damage: Mapping[str, str],
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self._keys = Strings(str(number) for number in numbers)
        self._rows = Strings(
            json.dumps([row.images, row.question, row.responses, row.system, row.kind])
            for row in rows
        )
        self._roles = {
            role: count
            for role, count in {
                "question": sum(bool(row.question) for row in rows),
                "answer": sum(bool(row.question) for row in rows),
                "caption": sum(not row.question for row in rows),
                "system": sum(bool(row.system) for row in rows),
            }.items()
            if count
        }

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        images, question, responses, system, kind = json.loads(self._rows[index])
        key = self._keys[index]
        asked = [Text(text=system, role="system")] if system else []
        asked += [Text(text=question, role="question")] if question else []
        role = "answer" if question else "caption"
        edit = Sample(
            key=f"{key}/{kind}",
            source=self.name,
            images={"main": self._image(images[1])},
            texts=(*asked, Text(text=responses[1], role=role)),
            kind=kind,
        )
        return Sample(
            key=key,
            source=self.name,
            images={"main": self._image(images[0])},
            texts=(*asked, Text(text=responses[0], role=role)),
            edits=(edit,),
        )

    def _image(self, name: str) -> FileImage:
        return FileImage(os.path.join(self.root, name))  # noqa: PTH118

    def keys(self) -> Sequence[str]:
        """The numbers of the rows."""
        return self._keys

    def schema(self) -> Schema:
        """Images, edits, and questions with answers, captions or both."""
        found = {"images.main": Field(kind="image"), "edits": Field(kind="edit")}
        for role, count in self._roles.items():
            found[f"texts.{role}"] = Field(kind="text", optional=count < len(self))
        return found


def write(
    source: Source,
    folder: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the samples of a source with their edits in this form: FILE and images/ in `folder`, an empty
    one. Returns the number of pairs.

    Each edit with an image makes a row with its sample. Of both the first question and the first
    answer are written, or the first caption. Samples without are left out. FILE appears last, when all
    images are there. Raises InputError for a folder that holds other files, and if there is no pair.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds other files; give an empty folder")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for index in range(len(source)):
        try:
            sample = source[index]
            rows += _rows_of(sample, folder, f"images/{index:06d}")
        except BadSample:
            pass
        progress(index + 1, len(source))
    if not rows:
        raise InputError(
            f"no sample of {source.name} has an image, a text, and an edit with both; name others"
        )
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    write_atomic(folder / FILE, lambda at: at.write_text(text, "utf-8"))
    return len(rows)


def _rows_of(sample: Sample, folder: Path, name: str) -> list[dict[str, Any]]:
    """Write the images of a sample and its edits; returns their rows."""
    role = "answer" if sample.captions("answer") else "caption"
    edits = [edit for edit in sample.edits if "main" in edit.images and edit.captions(role)]
    if "main" not in sample.images or not sample.captions(role) or not edits:
        return []
    # read before any is written: a damaged one leaves no file
    data = [each.images["main"].read() for each in (sample, *edits)]
    paths = [f"{name}.png", *(f"{name}-{at}.png" for at in range(len(edits)))]
    for path, content in zip(paths, data, strict=True):
        write_atomic(folder / path, lambda at, content=content: at.write_bytes(content))
    questions = sample.captions("question") if role == "answer" else []
    return [
        {
            "system_prompt": (sample.captions("system") or [""])[0],
            "instruction_prompt": (questions or [""])[0],
            "chosen_images": [paths[0]],
            "chosen_response": sample.captions(role)[0],
            "rejected_images": [path],
            "rejected_response": edit.captions(role)[0],
            "kind": edit.kind,
        }
        for path, edit in zip(paths[1:], edits, strict=True)
    ]
