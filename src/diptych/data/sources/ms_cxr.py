"""MS-CXR: phrases of radiology reports with boxes, as CSV or as COCO's JSON.

    dicom_id, category_name, label_text, x, y, w, h, image_width, image_height, split

is a box of a phrase; a phrase may have several. In JSON these are annotations with a `label_text`,
and images with the `path` of MIMIC-CXR-JPG. A table may have a column `path` too.
"""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Box, Field, Sample, Schema, Source, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.data.sources.rows import CsvRows
from diptych.errors import InputError, unknown
from diptych.files import write_atomic
from diptych.spec import Spec, configure

FORMAT = "ms-cxr"
FILE = "MS_CXR.csv"
COLUMNS: Sequence[str] = (
    "dicom_id", "category_name", "label_text", "x", "y", "w", "h", "image_width", "image_height", "split",
)  # fmt: skip
_NAME = re.compile(r"ms[-_]cxr.*\.json", re.IGNORECASE)
_ENDINGS = (".jpg", ".png")


@dataclass(frozen=True, kw_only=True)
class MsCxrOptions:
    """Options of a file: `images` is the folder of the images, `split` one of its splits."""

    images: str | None = None
    split: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a .csv with its columns, or a .json by its name."""
    if _NAME.fullmatch(Path(spec.name).name):
        return not is_folder(spec)
    first = beginning(spec, ".csv").partition(b"\n")[0]
    return b"dicom_id" in first and b"label_text" in first


def open(spec: Spec) -> "MsCxr":
    """Open `MS_CXR.csv[:images=FOLDER][:split=test]`. Raises InputError for other contents, for a
    split that there is none of, and for a folder without the first image."""
    options = configure(MsCxrOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    damage: dict[str, str] = {}
    read = _json if path.suffix.lower() == ".json" else _csv
    rows = read(path, damage)
    if options.split is not None:
        splits = sorted({row["split"] for row in rows} - {""})
        if options.split not in splits:
            raise unknown(f"split of {path}", options.split, splits)
        rows = [row for row in rows if row["split"] == options.split]
    if not rows:
        raise InputError(
            f"{path}: no row has {', '.join(COLUMNS[:7])}; compare it with the published file"
        )
    firsts = _candidates(rows[0])
    root, first = root_of(path, firsts, options.images, ("images",))
    return MsCxr(spec.name, root, Path(first).suffix, rows, damage)


def _candidates(row: Mapping[str, Any]) -> list[str]:
    return [row["path"]] if row["path"] else [f"{row['image']}{ending}" for ending in _ENDINGS]


def _row(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """A box with its phrase and image; None if it lacks one."""
    try:
        row = {
            "image": str(values["dicom_id"]).strip(),
            "class": str(values["category_name"]).strip(),
            "text": str(values["label_text"]).strip(),
            "box": [float(values[name]) for name in "xywh"],
            "split": str(values.get("split") or ""),
            "path": str(values.get("path") or ""),
        }
    except (KeyError, TypeError, ValueError):
        return None
    fits = row["text"] and inside(row["image"]) and (not row["path"] or inside(row["path"]))
    return row if fits and min(row["box"][2:]) > 0 else None


def _csv(path: Path, damage: dict[str, str]) -> list[dict[str, Any]]:
    found = []
    for number, values in enumerate(CsvRows(str(path)).scan(), 1):
        row = None if isinstance(values, BadSample) else _row(values)
        if row is None:
            damage[f"{path}:{number}"] = (
                values.reason if isinstance(values, BadSample) else "columns"
            )
        else:
            found.append(row)
    return found


def _json(path: Path, damage: dict[str, str]) -> list[dict[str, Any]]:
    data = json_of(path)
    try:
        names = {each["id"]: each["name"] for each in data["categories"]}
        images = {each["id"]: each for each in data["images"]}
        annotations = list(data["annotations"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: it lacks {error}; MS-CXR has categories, images and annotations"
        ) from None
    found = []
    for number, each in enumerate(annotations, 1):
        try:
            image = images[each["image_id"]]
            values = {
                "dicom_id": image.get("dicom_id") or Path(image["file_name"]).stem,
                "category_name": names[each["category_id"]],
                "label_text": each["label_text"],
                **dict(zip("xywh", each["bbox"], strict=True)),
                "split": image.get("split"),
                "path": image.get("path"),
            }
        except (KeyError, TypeError, ValueError):
            values = {}
        row = _row(values)
        if row is None:
            damage[f"{path}:annotation {number}"] = "columns"
        else:
            found.append(row)
    return found


class MsCxr:
    """One sample for each image, with a box for each row and its phrases as captions. Rows that
    cannot be read are counted in `damage`."""

    def __init__(
        self,
        name: str,
        root: Path,
        ending: str,
        rows: Sequence[Mapping[str, Any]],
        damage: Mapping[str, str],
    ):
        self.name = name
        self.root = str(root)
        self.ending = ending
        self.damage = dict(damage)
        self.classes = tuple(sorted({row["class"] for row in rows}))
        grouped: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            grouped.setdefault(row["image"], []).append(row)
        self._keys = Strings(grouped)
        self._rows = Strings(json.dumps(own) for own in grouped.values())

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        key = self._keys[index]
        rows = json.loads(self._rows[index])
        boxes = []
        for row in rows:
            x, y, width, height = row["box"]
            label = self.classes.index(row["class"])
            boxes.append(Box(xyxy=(x, y, x + width, y + height), text=row["text"], label=label))
        path = Path(self.root, rows[0]["path"] or f"{key}{self.ending}")
        return Sample(
            key=key,
            source=self.name,
            images={"main": FileImage(str(path))},
            texts=[Text(text=text) for text in dict.fromkeys(row["text"] for row in rows)],
            boxes=boxes,
        )

    def keys(self) -> Sequence[str]:
        """The ids of the images."""
        return self._keys

    def schema(self) -> Schema:
        """Images, phrases, and their boxes with the class of the finding."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "boxes": Field(kind="box", classes=self.classes),
        }


def write(
    source: Source,
    folder: Path,
    *,
    split: str = "test",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the boxes with texts of a source in this form: FILE and images/ in `folder`, an empty
    one. Returns the number of phrases; samples without such boxes are left out.

    FILE appears last, when all images are there. Raises InputError for a folder that holds other
    files, and if no box has a text.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds other files; give an empty folder")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    field = source.schema().get("boxes")
    classes = field.classes if field is not None else ()
    rows: list[dict[str, Any]] = []
    phrases = 0
    for index in range(len(source)):
        try:
            sample = source[index]
            boxes = [box for box in sample.boxes if box.image == "main" and box.text.strip()]
            if boxes and "main" in sample.images:
                rows += _written(sample, boxes, classes, folder, f"{index:06d}", split)
                phrases += len({box.text for box in boxes})
        except BadSample:
            pass
        progress(index + 1, len(source))
    if not rows:
        raise InputError(f"no sample of {source.name} has boxes with texts; name others")

    def table(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    write_atomic(folder / FILE, table)
    return phrases


def _written(
    sample: Sample,
    boxes: Sequence[Box],
    classes: Sequence[str],
    folder: Path,
    name: str,
    split: str,
) -> list[dict[str, Any]]:
    """Write the image of a sample; returns its rows."""
    image = sample.images["main"].decode()
    write_atomic(folder / "images" / f"{name}.png", lambda path: image.save(path, "PNG"))
    found = []
    for box in boxes:
        x0, y0, x1, y1 = box.xyxy
        found.append(
            {
                "dicom_id": name,
                "category_name": classes[box.label] if 0 <= box.label < len(classes) else box.text,
                "label_text": box.text,
                **dict(zip("xywh", (x0, y0, x1 - x0, y1 - y0), strict=True)),
                "image_width": image.width,
                "image_height": image.height,
                "split": split,
            }
        )
    return found
