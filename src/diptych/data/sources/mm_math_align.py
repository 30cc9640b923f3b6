"""MM-Math-Align as published (arXiv 2505.20152): a JSON list, or JSON lines, of objects

    positive_image_path                the image
    conversations                      a question and its answer, which is the caption
    negative_image_path                images of other figures
    negative_captions                  captions of other figures

Image and caption of one position of the two lists make an edit of the sample; beyond the shorter
list an edit has an image or a caption alone. `negative_kinds`, which `write` adds, are the kinds of
the edits; without it they are called negative.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
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

FORMAT = "mm-math-align"
FILE = "align.json"
KIND = "negative"
"""The kind of an edit without one."""
QUESTION = "<image>\nDescribe the figure."
"""The question of each caption that `write` writes."""
_MARK = b'"positive_image_path"'


@dataclass(frozen=True, kw_only=True)
class AlignOptions:
    """Options of a file: `images` is the folder of its images, `max_edits` the most negatives of a
    sample, the first ones (0: all)."""

    images: str | None = None
    max_edits: int = 0


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a JSON file whose first object has a
    `positive_image_path`."""
    return _MARK in beginning(spec, ".json", ".jsonl")


def open(spec: Spec) -> "Align":
    """Open `FILE[:images=FOLDER][:max_edits=K]`. Raises InputError for other contents, and for a folder
    without the first image."""
    options = configure(AlignOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    rows = list(JsonRows(spec.name).scan()) if path.suffix == ".jsonl" else json_of(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: it is no list of objects; compare it with the published file")
    good: list[Any] = [row for row in rows if _fits(row)]
    damage = {
        f"{path}:row {number}": row.reason if isinstance(row, BadSample) else "columns"
        for number, row in enumerate(rows)
        if not _fits(row)
    }
    if not good:
        raise InputError(
            f"{path}: no row has positive_image_path, negatives, and a caption in conversations; compare it with the "
            "published file"
        )
    root, _ = root_of(path, [good[0]["positive_image_path"]], options.images, ("images",))
    return Align(spec.name, root, good, damage, options.max_edits)


def caption_of(row: Mapping[str, Any]) -> str:
    """The answer of a row's conversation, "" if it has none."""
    turns = row.get("conversations")
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, Mapping) and turn.get("from") == "gpt":
            value = turn.get("value")
            return value.strip() if isinstance(value, str) else ""
    return ""


def _fits(row: Any) -> bool:
    if not isinstance(row, Mapping) or not caption_of(row):
        return False
    images = row.get("negative_image_path", [])
    captions = row.get("negative_captions", [])
    image = row.get("positive_image_path")
    lists = (images, captions, row.get("negative_kinds", []))
    return (
        isinstance(image, str)
        and all(isinstance(each, list) for each in lists)
        and all(isinstance(value, str) for each in lists for value in each)
        and all(map(inside, [image, *filter(None, images)]))
        and bool(images or captions)
    )


class Align:
    """One sample per row, in order; the path of its image is the key. Rows that cannot be read are
    counted in `damage`."""

    def __init__(
        self,
        name: str,
        root: Path,
        rows: Sequence[Mapping[str, Any]],
        damage: Mapping[str, str],
        max_edits: int = 0,
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self.max_edits = max_edits
        self._keys = Strings(row["positive_image_path"] for row in rows)
        self._rows = Strings(
            json.dumps(
                [
                    caption_of(row),
                    row.get("negative_image_path", []),
                    row.get("negative_captions", []),
                    row.get("negative_kinds", []),
                ]
            )
            for row in rows
        )

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        caption, images, captions, kinds = json.loads(self._rows[index])
        key = self._keys[index]
        whole = list(zip_longest(images, captions, kinds, fillvalue=""))
        edits = [
            Sample(
                key=f"{key}/{at}",
                source=self.name,
                images={"main": self._image(image)} if image else {},
                texts=(Text(text=text),) if text else (),
                kind=kind or KIND,
            )
            for at, (image, text, kind) in enumerate(whole[: self.max_edits or None])
        ]
        return Sample(
            key=key,
            source=self.name,
            images={"main": self._image(key)},
            texts=(Text(text=caption),),
            edits=edits,
        )

    def _image(self, name: str) -> FileImage:
        return FileImage(os.path.join(self.root, name))  # noqa: PTH118

    def keys(self) -> Sequence[str]:
        """The paths of the images."""
        return self._keys

    def schema(self) -> Schema:
        """Images, captions and edits."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "edits": Field(kind="edit"),
        }


def write(
    source: Source,
    folder: Path,
    *,
    role: str = "caption",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the samples of a source and their edits in this form: FILE and images/ in `folder`, an
    empty one. Returns the number of samples; those without a caption or edits are left out.

    FILE appears last, when all images are there. Raises InputError for a folder that holds other
    files, and if no sample has edits.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds other files; give an empty folder")
    there = folder.exists()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(len(source)):
        try:
            sample = source[index]
            if sample.edits and sample.captions(role) and "main" in sample.images:
                rows.append(_row(sample, folder, f"images/{index:06d}", role))
        except BadSample:
            pass
        progress(index + 1, len(source))
    if not rows:
        (folder / "images").rmdir()
        if not there:
            folder.rmdir()
        raise InputError(
            f"no sample of {source.name} has an image, a caption and edits (negatives); name another source, "
            "or make other kinds of negatives"
        )
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    write_atomic(folder / FILE, lambda at: at.write_text(text, "utf-8"))
    return len(rows)


def _row(sample: Sample, folder: Path, name: str, role: str) -> dict[str, Any]:
    """Write the images of a sample; returns its row."""
    # both, then an image alone, then a caption alone: so positions of the two lists agree
    edits = sorted(
        sample.edits, key=lambda edit: ("main" not in edit.images, not edit.captions(role))
    )
    named = [
        (f"{name}.png", sample),
        *((f"{name}-{at}.png", each) for at, each in enumerate(edits)),
    ]
    paths = []
    for path, each in named:
        if "main" in each.images:
            data = each.images["main"].read()
            write_atomic(folder / path, lambda at, data=data: at.write_bytes(data))
            paths.append(path)
    captions = [(edit.captions(role) or [""])[0] for edit in edits]
    return {
        "positive_image_path": paths[0],
        "negative_image_path": paths[1:],
        "negative_captions": captions if any(captions) else [],
        "negative_kinds": [edit.kind for edit in edits],
        "conversations": [
            {"from": "human", "value": QUESTION},
            {"from": "gpt", "value": sample.captions(role)[0]},
        ],
    }
