"""SNLI and SNLI-VE (`snli_1.0_train.jsonl`, `snli_ve_dev.jsonl`), and what has their form, as MedNLI
and RadNLI (`mli_train_v1.jsonl`, `radnli_test_v1.jsonl`): JSON lines of a premise, a hypothesis and a
label.

The premise is the caption of a Flickr30k image, which is the premise of SNLI-VE. So here the
premise is a caption, the hypothesis a question and the label its answer.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, EncodedImage, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning
from diptych.data.sources.rows import JsonRows
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "snli"
CLASSES = ("entailment", "neutral", "contradiction")
_MARKS = (b'"sentence1"', b'"sentence2"', b'"gold_label"')
_IDS = ("pairID", "pair_id")  # RadNLI's is the second
_DISPUTED = "-"  # the label if annotators disagree
_FOLDERS = ("flickr30k-images", "flickr30k_images", "Flickr30K", "images", "Images")


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its name, or by the fields of its first line."""
    name = os.path.basename(spec.name).lower()  # noqa: PTH119  (Path may raise for long texts)
    if name.startswith("snli") and name.endswith(".jsonl"):
        return not is_folder(spec)
    first = beginning(spec, ".jsonl").partition(b"\n")[0]
    return all(mark in first for mark in _MARKS)


@dataclass(frozen=True, kw_only=True)
class SnliOptions:
    """Options of an SNLI file: `images` is the folder of Flickr30k's images."""

    images: str | None = None


def open(spec: Spec) -> "Snli":
    """Open `snli_ve_dev.jsonl[:images=FOLDER]`; without images in a usual folder next to it, the
    source has only texts."""
    options = configure(SnliOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    return Snli(spec.name, JsonRows(spec.name), options.images)


class Snli:
    """One sample per row, in order, with the label `entailment`; the pair's id is the key.

    Rows without an agreed label are left out, as is usual. Rows that cannot be read are counted in
    `damage` (json, utf8, columns). Raises InputError for a file without valid rows, and for a
    folder without the first image.
    """

    def __init__(self, name: str, rows: JsonRows, images: str | None = None):
        self.name = name
        self._rows = rows
        self.damage: Mapping[str, str] = {}
        good = []
        keys = []
        labels = []
        damage = {}
        first = ""
        for number, row in enumerate(rows.scan()):
            bad = row.reason if isinstance(row, BadSample) else "" if _fits(row) else "columns"
            if bad:
                damage[f"{name}:{number + 1}"] = bad
            elif row["gold_label"] != _DISPUTED:  # type: ignore[index]
                good.append(number)
                keys.append(next((str(row[key]) for key in _IDS if key in row), str(number)))  # type: ignore[operator, index]
                labels.append(CLASSES.index(row["gold_label"]))  # type: ignore[index]
                first = first or _image(row)
        if not good:
            raise InputError(
                f"{name}: no line is {{'sentence1': …, 'sentence2': …, 'gold_label': "
                f"{' | '.join(CLASSES)}}}; call a table of another form by another name"
            )
        if len(set(keys)) < len(keys):
            keys = [f"{key}#{number + 1}" for key, number in zip(keys, good, strict=True)]
        self.damage = damage
        self._good = np.array(good, np.int64)
        self._keys = Strings(keys)
        self._label = np.array(labels, np.int64)
        self.root = _root(Path(name), first, images)

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        row = self._rows[int(self._good[index])]
        name = _image(row)
        images: dict[str, EncodedImage] = {}
        if self.root is not None and name:
            images["main"] = FileImage(str(Path(self.root, name)))
        return Sample(
            key=self._keys[index],
            source=self.name,
            images=images,
            texts=(
                Text(text=row["sentence1"].strip()),
                Text(text=row["sentence2"].strip(), role="question", attrs={"choices": CLASSES}),
                Text(text=row["gold_label"], role="answer"),
            ),
            labels={"entailment": int(self._label[index])},
        )

    def keys(self) -> Sequence[str]:
        """The ids of the pairs."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """The label `entailment` of all samples (N,)."""
        assert name == "entailment"
        return self._label

    def schema(self) -> Schema:
        """Premise, hypothesis and label; images if they were found."""
        found = {} if self.root is None else {"images.main": Field(kind="image")}
        texts = {f"texts.{role}": Field(kind="text") for role in ("caption", "question", "answer")}
        return {**found, **texts, "labels.entailment": Field(kind="int", classes=CLASSES)}


def _fits(row: Mapping[str, Any]) -> bool:
    return (
        all(
            isinstance(row.get(name), str) and row[name].strip()
            for name in ("sentence1", "sentence2")
        )
        and row.get("gold_label") in (*CLASSES, _DISPUTED)
        and os.path.basename(_image(row)) == _image(row)  # noqa: PTH119
    )


def _image(row: Any) -> str:
    """The image's file name, from SNLI-VE's image id or SNLI's caption id (`4705552913.jpg#2`)."""
    number = row.get("Flickr30K_ID")
    if number is not None:
        return f"{number}.jpg"
    return str(row.get("captionID", "")).partition("#")[0]


def _root(path: Path, first: str, images: str | None) -> str | None:
    """The folder of the images: `images`, or a usual one next to the file; None if there is
    none."""
    folders = [Path(images)] if images is not None else [path.parent / name for name in _FOLDERS]
    for folder in folders:
        if first and (folder / first).is_file():
            return str(folder)
    if images is not None:
        raise InputError(
            f"{path}: its first image, {first}, is not in {images}; name Flickr30k's folder of images"
        )
    return None
