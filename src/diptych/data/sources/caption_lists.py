"""Lists of captions as ALBEF, BLIP and X-VLM read them: a JSON list of objects

    image      the file of the image
    caption    its captions, a list, as in files for testing; or one, as in files for training, in
               which an image has a row for each of its captions

Rows of one image are one sample.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "caption_lists"
_FIRST = re.compile(rb'\s*\[\s*\{(?=[^{}]*"image"\s*:\s*")[^{}]*"caption"\s*:\s*["\[]')


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Options of a list of captions: `images` is the folder of the images, by default that of the
    file."""

    images: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a JSON list whose first object has `image` and `caption`."""
    return _FIRST.match(beginning(spec, ".json")) is not None


def open(spec: Spec) -> "CaptionLists":
    """Open `flickr30k_test.json[:images=FOLDER]`. Raises InputError for a file without a row that
    fits, and for a folder without the first image."""
    options = configure(ListOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    rows = json_of(path)
    captions: dict[str, list[str]] = {}
    damage = {}
    for number, row in enumerate(rows):
        if _fits(row):
            found = row["caption"]
            captions.setdefault(row["image"], []).extend(
                [found] if isinstance(found, str) else found
            )
        else:
            damage[f"{path}:row {number}"] = "columns"
    if not captions:
        raise InputError(
            f"{path}: no row has an image and a caption, or a list of them; compare it with the published files"
        )
    root, _ = root_of(path, [next(iter(captions))], options.images, ("images",))
    return CaptionLists(spec.name, root, captions, damage)


def _fits(row: Any) -> bool:
    if not isinstance(row, Mapping) or not isinstance(row.get("image"), str):
        return False
    image = row["image"]
    caption = row.get("caption")
    texts = [caption] if isinstance(caption, str) else caption
    return (
        inside(image)
        and isinstance(texts, list)
        and bool(texts)
        and all(isinstance(text, str) for text in texts)
    )


class CaptionLists:
    """One sample per image, in the order in which they appear; its file is the key. Rows that cannot
    be read are counted in `damage`."""

    def __init__(
        self,
        name: str,
        root: Path,
        captions: Mapping[str, Sequence[str]],
        damage: Mapping[str, str],
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self._images = Strings(captions)
        self._texts = Strings(text for texts in captions.values() for text in texts)
        self._ends = np.cumsum([len(texts) for texts in captions.values()])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        rows = range(start, int(self._ends[index]))
        return Sample(
            key=self._images[index],
            source=self.name,
            images={"main": FileImage(os.path.join(self.root, self._images[index]))},  # noqa: PTH118
            texts=[Text(text=self._texts[row]) for row in rows],
        )

    def keys(self) -> Sequence[str]:
        """The files of the images."""
        return self._images

    def schema(self) -> Schema:
        """Images and captions."""
        return {"images.main": Field(kind="image"), "texts.caption": Field(kind="text")}
