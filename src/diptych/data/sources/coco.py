"""COCO captions (`captions_val2017.json`), COCO boxes (`instances_val2017.json`) and Karpathy's
splits (`dataset_coco.json`, `dataset_flickr30k.json`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import Box, Field, Sample, Schema, Text
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure, several

FORMAT = "coco"
ANY = True


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its suffix."""
    return spec.name.lower().endswith(".json") and not is_folder(spec)


def open(spec: Spec) -> "Coco":
    """Open `captions_val2017.json[:images=FOLDER]`, `instances_val2017.json` or
    `dataset_coco.json:split=train+restval`."""
    options = configure(CocoOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    data = json_of(path)
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list) or not images:
        raise InputError(
            f"{path}: no list 'images' as COCO's and Karpathy's files have; for a table use .jsonl or .csv, and call "
            "CoOp's splits split_zhou_NAME.json"
        )
    try:
        karpathy = "sentences" in images[0]
        found = (
            _karpathy(images, path, options.split) if karpathy else _coco(data, path, options.split)
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: an image or annotation lacks {error}; compare it with COCO's own files"
        ) from error
    names, captions, damage = found
    try:
        boxes = None if karpathy or "categories" not in data else _boxes(data, path, damage)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: a category or box lacks {error}; compare it with COCO's own files"
        ) from error
    if odd := [name for name in names if not isinstance(name, str)]:
        raise InputError(
            f"{path}: an image's file is {odd[0]!r}, no name; compare it with COCO's own files"
        )
    root = options.images or _root(path, names[0])
    return Coco(spec.name, root, names, captions, damage, boxes)


@dataclass(frozen=True, kw_only=True)
class CocoOptions:
    """Options of a source of COCO's or Karpathy's format."""

    images: str | None = None
    split: str | None = None


_Found = tuple[list[str], list[list[str]], dict[str, str]]


def _coco(data: Mapping[str, Any], path: Path, split: str | None) -> _Found:
    if split is not None:
        raise InputError(f"{path}: COCO's files hold one split each; leave :split={split} away")
    captions: dict[Any, list[str]] = {image["id"]: [] for image in data["images"]}
    damage: dict[str, str] = {}
    for at, annotation in enumerate(data.get("annotations", ())):
        texts = captions.get(annotation["image_id"])
        if texts is None:
            damage[f"{path}:annotation {annotation.get('id', at)}"] = "missing"  # of no image
        elif isinstance(caption := annotation.get("caption", ""), str):
            texts.append(caption)
        else:
            damage[f"{path}:annotation {annotation.get('id', at)}"] = "columns"
    return [image["file_name"] for image in data["images"]], list(captions.values()), damage


@dataclass(frozen=True)
class Boxes:
    """Boxes of all images.

    `classes` are the categories in the order of their ids, `rows` (n, 5) the number of the class
    and x0, y0, x1, y1, and `ends` (N,) the end of each image's rows.
    """

    classes: tuple[str, ...]
    rows: np.ndarray
    ends: np.ndarray


def _boxes(data: Mapping[str, Any], path: Path, damage: dict[str, str]) -> Boxes:
    """Read the boxes. Crowds, which are not boxes of one object, are left out; invalid boxes are
    counted in `damage`."""
    categories = sorted(data["categories"], key=lambda category: category["id"])
    number = {category["id"]: at for at, category in enumerate(categories)}
    mine: dict[Any, list[list[float]]] = {image["id"]: [] for image in data["images"]}
    for at, annotation in enumerate(data.get("annotations", ())):
        if (
            annotation["image_id"] not in mine
            or annotation.get("iscrowd")
            or "bbox" not in annotation
        ):
            continue
        x, y, width, height = (float(value) for value in annotation["bbox"])
        kind = number.get(annotation["category_id"])
        if kind is None or not (width > 0 and height > 0):
            damage[f"{path}:annotation {annotation.get('id', at)}"] = "box"
        else:
            mine[annotation["image_id"]].append([kind, x, y, x + width, y + height])
    rows = np.array([row for boxes in mine.values() for row in boxes], np.float32).reshape(-1, 5)
    names = tuple(str(category["name"]) for category in categories)
    return Boxes(names, rows, np.cumsum([len(boxes) for boxes in mine.values()], dtype=np.int64))


def _karpathy(images: Sequence[Mapping[str, Any]], path: Path, split: str | None) -> _Found:
    splits = sorted({image["split"] for image in images})
    if split is None:
        raise InputError(
            f"{path}: holds the splits {', '.join(splits)}; choose one, such as :split={splits[0]}, or some joined by +"
        )
    wanted = several(f"split of {path}", split, splits)
    chosen = [image for image in images if image["split"] in wanted]
    names = [str(Path(image.get("filepath", ""), image["filename"])) for image in chosen]
    captions = []
    damage = {}
    for name, image in zip(names, chosen, strict=True):
        texts = [sentence["raw"] for sentence in image["sentences"]]
        captions.append([text for text in texts if isinstance(text, str)])
        damage |= {
            f"{path}:{name} sentence {at}": "columns"
            for at, text in enumerate(texts, 1)
            if not isinstance(text, str)
        }
    return names, captions, damage


def _root(path: Path, first: str) -> str:
    """The folder with the first image: next to the file or one level above, under a name used by
    COCO or Flickr30k."""
    word = path.stem.rpartition("_")[
        2
    ]  # captions_val2017 -> val2017, dataset_flickr30k -> flickr30k
    below = ("", word, "images", f"images/{word}", "Images", f"{word}-images", f"{word}_images")
    for base in (path.parent, path.parent.parent):
        for folder in (base / name for name in below):
            if (folder / first).is_file():
                return str(folder)
    raise InputError(
        f"{path}: its first image, {first}, is not near it; name the folder with :images=FOLDER"
    )


class Coco:
    """One sample per image, with all its captions, or its boxes.

    Captions of unknown images are counted in `damage` as missing.
    """

    def __init__(
        self,
        name: str,
        root: str,
        images: Sequence[str],
        captions: Sequence[Sequence[str]],
        damage: Mapping[str, str],
        boxes: Boxes | None = None,
    ):
        self._boxes = boxes
        self.name = name
        self.root = root
        self.damage = damage
        self._images = Strings(images)
        self._captions = Strings([text for texts in captions for text in texts])
        self._ends = np.cumsum([len(texts) for texts in captions], dtype=np.int64)
        self._optional = any(not texts for texts in captions)
        if len(set(images)) < len(images):
            twice, _ = Counter(images).most_common(1)[0]
            raise InputError(f"{name}: the image {twice} is listed twice; list it once")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        texts = (self._captions[at].strip() for at in range(start, int(self._ends[index])))
        return Sample(
            key=self._images[index],
            source=self.name,
            images={"main": FileImage(str(Path(self.root, self._images[index])))},
            texts=tuple(Text(text=text) for text in texts if text),
            boxes=self._boxes_of(index),
        )

    def _boxes_of(self, index: int) -> tuple[Box, ...]:
        if self._boxes is None:
            return ()
        start = int(self._boxes.ends[index - 1]) if index else 0
        end = int(self._boxes.ends[index])
        rows = self._boxes.rows[start:end].tolist()
        classes = self._boxes.classes
        return tuple(
            Box(xyxy=(x0, y0, x1, y1), text=classes[int(kind)], label=int(kind))
            for kind, x0, y0, x1, y1 in rows
        )

    def keys(self) -> Sequence[str]:
        """The images' file names."""
        return self._images

    def schema(self) -> Schema:
        """Images, and captions or boxes."""
        found = {"images.main": Field(kind="image")}
        if self._boxes is not None:
            return found | {"boxes": Field(kind="box", classes=self._boxes.classes)}
        return found | {"texts.caption": Field(kind="text", optional=self._optional)}
