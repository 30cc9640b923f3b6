"""Benchmarks of composition, as published: captions that differ in a word or two, of which some have
an image of their own.

    examples.jsonl                         Winoground (Thrush et al. 2022): two images and two captions a line
    visual_genome_relation.json,
    visual_genome_attribution.json         ARO (Yuksekgonul et al. 2023): a true and a false caption of a region
    add_att.json, …, swap_obj.json         SugarCrepe (Hsieh et al. 2023): a caption and a negative one
    Questions.csv                          MMVP-VLM (Tong et al. 2024): two images and two statements in two lines

A sample is the first image with its caption; the other caption, with its image in Winoground and
MMVP, is its edit, whose kind is Winoground's tag, ARO's relation or attributes, the name of SugarCrepe's
file, or MMVP's visual pattern. Statements of MMVP are read as "a photo of STATEMENT".
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.png import png_of
from diptych.data.sample import BadSample, EncodedImage, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.data.sources.rows import JsonRows, open_rows
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "compositional"
WINOGROUND = "examples.jsonl"
ARO = ("visual_genome_relation.json", "visual_genome_attribution.json")
SUGARCREPE = (
    "add_att.json",
    "add_obj.json",
    "replace_att.json",
    "replace_obj.json",
    "replace_rel.json",
    "swap_att.json",
    "swap_obj.json",
)
MMVP = "questions.csv"
_FOLDERS = ("images", "val2017", "coco/val2017", "Images", "MLLM_VLM Images")
_MARK = b'"caption_0"'
_HEADER = b"Question ID,Type,Statement"


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Options of a benchmark of composition: `images` is the folder of its images."""

    images: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A caption and its edit: names of one or two images, a region (x0, y0, x1, y1) of the
    image."""

    key: str
    images: tuple[str, ...]
    texts: tuple[str, str]
    kind: str
    region: tuple[int, int, int, int] | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its name, Winoground's also by its first line."""
    name = os.path.basename(spec.name).lower()  # noqa: PTH119  (Path may raise for long texts)
    if name == WINOGROUND:
        return _MARK in beginning(spec, WINOGROUND)
    if name == MMVP:
        return _HEADER in beginning(spec, MMVP)
    return name in (*ARO, *SUGARCREPE) and not is_folder(spec)


def open(spec: Spec) -> "Compositional":
    """Open `FILE[:images=FOLDER]`. Raises InputError for a missing file, for other contents and for
    a folder without the first image."""
    options = configure(PairOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    name = path.name.lower()
    read = _READERS.get(name, _aro if name in ARO else _sugarcrepe)
    rows: list[Row] = []
    damage = {}
    for where, given in _given(path, spec.name):
        found = given.reason if isinstance(given, BadSample) else read(given, where, path.stem)
        if isinstance(found, Row):
            rows.append(found)
        else:
            damage[f"{path}:{where}"] = found or "columns"
    if not rows:
        raise InputError(
            f"{path}: no row has its captions and images; compare it with the published file"
        )
    root, _ = root_of(path, rows[0].images[:1], options.images, _FOLDERS)
    return Compositional(spec.name, root, rows, damage)


def _given(path: Path, name: str) -> Sequence[tuple[str, Any]]:
    """The rows of a file, each with its place or key."""
    if path.suffix.lower() == ".jsonl":
        return [(str(number), row) for number, row in enumerate(JsonRows(name).scan())]
    if path.suffix.lower() == ".csv":
        return _pairs(list(open_rows(name).scan()))
    content = json_of(path)
    if isinstance(content, dict):
        return list(content.items())
    return [
        (str(number), row)
        for number, row in enumerate(content if isinstance(content, list) else [])
    ]


def _pairs(rows: Sequence[Any]) -> list[tuple[str, Any]]:
    """Every two rows in turn; a damaged one, and a last one without a second, stand for both."""
    found: list[tuple[str, Any]] = []
    for at in range(0, len(rows), 2):
        both = rows[at : at + 2]
        damaged = [each for each in both if isinstance(each, BadSample)]
        found.append((str(at // 2), damaged[0] if damaged else both))
    return found


def _mmvp(rows: Any, where: str, stem: str) -> Row | None:
    found = [_of(row, str, "Question ID", "Type", "Statement") for row in rows]
    if len(found) < 2 or None in found:
        return None
    images = tuple(f"{kind}/{number}.jpg" for number, kind, _ in found)
    if not all(map(inside, images)):
        return None
    texts = tuple(f"a photo of {statement}" for _, _, statement in found)
    (number, kind, _), _ = found
    return Row(key=number, images=images, texts=texts, kind=kind)  # type: ignore[arg-type]  # two of each


def _winoground(row: Any, where: str, stem: str) -> Row | None:
    texts = _of(row, str, "caption_0", "caption_1")
    images = _of(row, str, "image_0", "image_1")
    if texts is None or images is None or not all(map(inside, images)):
        return None
    named = tuple(image if Path(image).suffix else f"{image}.png" for image in images)
    kind = row.get("collapsed_tag") or row.get("tag") or "swap"
    return Row(key=str(row.get("id", where)), images=named, texts=texts, kind=str(kind))


def _aro(row: Any, where: str, stem: str) -> Row | None:
    texts = _of(row, str, "true_caption", "false_caption")
    image = _of(row, str, "image_path")
    region = _of(row, int, "bbox_x", "bbox_y", "bbox_w", "bbox_h")
    if texts is None or image is None or region is None or not inside(image[0]):
        return None
    x, y, width, height = region
    if min(width, height) < 1:
        return None
    kind = row.get("relation_name") or "_".join(map(str, row.get("attributes") or ["attribute"]))
    box = (x, y, x + width, y + height)
    return Row(key=where, images=image, texts=texts, kind=str(kind), region=box)


def _sugarcrepe(row: Any, where: str, stem: str) -> Row | None:
    texts = _of(row, str, "caption", "negative_caption")
    image = _of(row, str, "filename")
    if texts is None or image is None or not inside(image[0]):
        return None
    return Row(key=f"{stem}-{where}", images=image, texts=texts, kind=stem)


def _of(row: Any, kind: type, *names: str) -> Any:
    """The fields of a row, if it has all of this kind."""
    if not isinstance(row, Mapping):
        return None
    found = tuple(row.get(name) for name in names)
    good = all(type(value) is kind and value != "" for value in found)
    return found if good else None


_READERS = {WINOGROUND: _winoground, MMVP: _mmvp}


@dataclass(frozen=True, slots=True)
class Region:
    """A region of an image in a file."""

    image: FileImage
    region: tuple[int, int, int, int]

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The region in full size. Raises BadSample for one outside the image."""
        image = self.image.decode()
        x0, y0, x1, y1 = self.region
        if x0 < 0 or y0 < 0 or x0 >= image.width or y0 >= image.height:
            raise BadSample("box", f"{self.image.path} has {image.width} x {image.height} pixels")
        return image.crop((x0, y0, min(x1, image.width), min(y1, image.height)))

    def read(self) -> bytes:
        """The region as a PNG file."""
        return png_of(self.decode())


class Compositional:
    """One sample per row, in order, with one edit. Rows that cannot be read are counted in
    `damage`."""

    def __init__(self, name: str, root: Path, rows: Sequence[Row], damage: Mapping[str, str]):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self._keys = Strings(row.key for row in rows)
        self._rows = Strings(
            json.dumps([row.images, row.texts, row.kind, row.region]) for row in rows
        )

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        images, texts, kind, region = json.loads(self._rows[index])
        files: list[EncodedImage] = [FileImage(os.path.join(self.root, name)) for name in images]  # noqa: PTH118
        if region is not None:
            files = [Region(files[0], tuple(region))]  # type: ignore[arg-type]
        key = self._keys[index]
        edit = Sample(
            key=f"{key}/{kind}",
            source=self.name,
            images={"main": files[1]} if len(files) > 1 else {},
            texts=(Text(text=texts[1]),),
            kind=kind,
        )
        return Sample(
            key=key,
            source=self.name,
            images={"main": files[0]},
            texts=(Text(text=texts[0]),),
            edits=(edit,),
        )

    def keys(self) -> Sequence[str]:
        """The id of Winoground, the number of ARO's row, the file and key of SugarCrepe, the first
        question's id of MMVP."""
        return self._keys

    def schema(self) -> Schema:
        """Images, captions and edits."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "edits": Field(kind="edit"),
        }
