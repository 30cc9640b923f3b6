"""COCO captions (`captions_val2017.json`), COCO boxes and outlines (`instances_val2017.json`), boxes of
things and stuff (`panoptic_val2017.json`), with their masks if the folder `panoptic_val2017/` is beside
it, and Karpathy's splits (`dataset_coco.json`,
`dataset_flickr30k.json`).

Captions may also be in the list of images, as `{"images": [{"id", "file_name", "captions": […]}]}`. With
`:image_captions=captions_train2017.json` the images of a file of boxes have the captions that another file gives
them, by the images' ids, which LVIS shares with COCO.

With `:vocabulary=base` boxes are those of the classes that open-vocabulary detectors are trained on, with
`:vocabulary=novel` those of the others: of LVIS by the `frequency` of its categories, where "r" is novel
(Gu et al., 2022), of COCO 48 and 17 of its 80 classes (Bansal et al., 2018). There is no class mask
then. With `:background=true` pixels outside of all outlines are of the class `background` in the class
mask, as in the benchmarks of segmentation on COCO's objects."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.masks import VOID
from diptych.data.outlines import Outline, OutlineMask, checked_runs
from diptych.data.sample import Box, Field, Sample, Schema, Text
from diptych.data.sources._panoptic import Panoptic, panoptic
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure, several

FORMAT = "coco"
ANY = True

NOVEL = (
    *("airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard"),
    *("skateboard", "cup", "knife", "cake", "couch", "keyboard", "sink", "scissors"),
)
"""The classes of COCO on which open-vocabulary detectors are judged."""
BASE = (
    *("person", "bicycle", "car", "motorcycle", "train", "truck", "boat", "bench", "bird", "horse"),
    *("sheep", "bear", "zebra", "giraffe", "backpack", "handbag", "suitcase", "frisbee", "skis"),
    *("kite", "surfboard", "bottle", "fork", "spoon", "bowl", "banana", "apple", "sandwich"),
    *("orange", "broccoli", "carrot", "pizza", "donut", "chair", "bed", "toilet", "tv", "laptop"),
    *("mouse", "remote", "microwave", "oven", "toaster", "refrigerator", "book", "clock", "vase"),
    "toothbrush",
)
"""Those on which they are trained."""


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
    if options.image_captions is not None:
        if karpathy:
            raise InputError(f"{path}: this file has captions itself; leave :image_captions= away")
        captions = _captions_of(images, path, Path(options.image_captions), damage)
    try:
        annotated = not karpathy and "categories" in data
        if options.vocabulary:
            data = _of_vocabulary(data, path, options.vocabulary)
        boxes, places = _boxes(data, path, damage) if annotated else (None, {})
        segments = _segments(data, path, damage, places) if annotated else None
        masks = segments or (panoptic(data, path, places) if annotated else None)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: a category, box or image lacks {error}; compare it with COCO's own files"
        ) from error
    if odd := [name for name in names if not isinstance(name, str)]:
        raise InputError(
            f"{path}: an image's file is {odd[0]!r}, no name; compare it with COCO's own files"
        )
    root = options.images or _root(path, names[0])
    painted = segments is not None and not options.vocabulary
    painted = painted and len(data["categories"]) + options.background <= VOID
    if options.background and not painted:
        raise InputError(f"{path}: there is no mask `class` to have a background; leave it out")
    return Coco(spec.name, root, names, captions, damage, boxes, masks, painted, options.background)


@dataclass(frozen=True, kw_only=True)
class CocoOptions:
    """Options of a source of COCO's or Karpathy's format."""

    images: str | None = None
    split: str | None = None
    image_captions: str | None = None
    vocabulary: Literal["base", "novel"] | None = None
    background: bool = False


_Found = tuple[list[str], list[list[str]], dict[str, str]]


def _coco(data: Mapping[str, Any], path: Path, split: str | None) -> _Found:
    if split is not None:
        raise InputError(f"{path}: COCO's files hold one split each; leave :split={split} away")
    captions: dict[Any, list[str]] = {}
    damage: dict[str, str] = {}
    for image in data["images"]:
        own = image.get("captions", [])  # not COCO's own; some files have them here
        texts = [text for text in own if isinstance(text, str)] if isinstance(own, list) else []
        captions[image["id"]] = texts
        if texts != own:
            damage[f"{path}:{_file(image)}"] = "columns"
    for at, annotation in enumerate(data.get("annotations", ())):
        texts = captions.get(annotation["image_id"])
        if texts is None:
            damage[f"{path}:annotation {annotation.get('id', at)}"] = "missing"  # of no image
        elif not isinstance(caption := annotation.get("caption", ""), str):
            damage[f"{path}:annotation {annotation.get('id', at)}"] = "columns"
        elif caption.strip():
            texts.append(caption)
    return [_file(image) for image in data["images"]], list(captions.values()), damage


def _file(image: Mapping[str, Any]) -> str:
    """The file of an image. LVIS gives its address at COCO, that ends with the folder and the file."""
    if "file_name" not in image and "coco_url" in image:
        return "/".join(image["coco_url"].split("/")[-2:])
    return image["file_name"]


def _captions_of(
    images: Sequence[Mapping[str, Any]], path: Path, file: Path, damage: dict[str, str]
) -> list[list[str]]:
    """The captions that `file` has of the images of `path`, by their ids. Raises InputError if it has
    none."""
    data = json_of(file)
    try:
        _, captions, found = _coco(data, file, None)
        of = dict(zip((image["id"] for image in data["images"]), captions, strict=True))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: an image or annotation lacks {error}; give COCO's captions_*.json"
        ) from error
    own = [of.get(image["id"], []) for image in images]
    if not any(own):
        raise InputError(
            f"{file} has no captions of the images in {path}; give the captions_*.json of the same images"
        )
    damage |= found
    return own


@dataclass(frozen=True)
class Boxes:
    """Boxes of all images.

    `classes` are the categories in the order of their ids, `stuff` those that are no things, `rows`
    (n, 5) the number of the class and x0, y0, x1, y1, and `ends` (N,) the end of each image's rows.
    """

    classes: tuple[str, ...]
    stuff: tuple[str, ...]
    rows: np.ndarray
    ends: np.ndarray


def _boxes(
    data: Mapping[str, Any], path: Path, damage: dict[str, str]
) -> tuple[Boxes, dict[int, int]]:
    """Read the boxes, and of each annotation that has one its number among the boxes of its image.

    Crowds, which are not boxes of one object, are left out; invalid boxes are counted in `damage`.
    """
    categories = sorted(data["categories"], key=lambda category: category["id"])
    number = _numbers(categories)
    mine: dict[Any, list[list[float]]] = {image["id"]: [] for image in data["images"]}
    places = {}
    for at, annotation in enumerate(_objects(data)):
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
            own = mine[annotation["image_id"]]
            places[at] = len(own)
            own.append([kind, x, y, x + width, y + height])
    rows = np.array([row for boxes in mine.values() for row in boxes], np.float32).reshape(-1, 5)
    names = tuple(str(category["name"]) for category in categories)
    ends = np.cumsum([len(boxes) for boxes in mine.values()], dtype=np.int64)
    stuff = tuple(str(each["name"]) for each in categories if each.get("isthing", 1) == 0)
    return Boxes(names, stuff, rows, ends), places


def _of_vocabulary(data: Mapping[str, Any], path: Path, which: str) -> Mapping[str, Any]:
    """The data with the categories of training, or with the others, and their boxes."""
    categories = data.get("categories") or ()
    names = {category["name"] for category in categories}
    if categories and all("frequency" in category for category in categories):
        novel = {category["name"] for category in categories if category["frequency"] == "r"}
        base = names - novel
    elif {*BASE, *NOVEL} <= names:
        base = {*BASE}
        novel = {*NOVEL}
    else:
        raise InputError(
            f"{path}: vocabulary={which} is known of LVIS, by the frequency of its categories, and of COCO's 80 "
            "classes; leave it out"
        )
    wanted = base if which == "base" else novel
    kept = [category for category in categories if category["name"] in wanted]
    ids = {category["id"] for category in kept}
    annotations = [each for each in data.get("annotations", ()) if each["category_id"] in ids]
    return {**data, "categories": kept, "annotations": annotations}


def _objects(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the annotations, or the segments of panoptic ones, each with its image."""
    for annotation in data.get("annotations", ()):
        if "segments_info" not in annotation:
            yield annotation
        for segment in annotation.get("segments_info", ()):
            yield {**segment, "image_id": annotation["image_id"]}


@dataclass(frozen=True)
class Segments:
    """Outlines of the objects of all images, in the order in which they are painted.

    `rows` (S, 4) are of each outline the number of the class, whether it is a polygon, the end of its
    numbers, and the number of its object among the boxes of its image, -1 for none; `numbers` the
    corners in `_UNIT` parts of a pixel, or the runs; `ends` (N,) the end of each image's outlines;
    `sizes` (N, 2) the images' width and height.
    """

    rows: np.ndarray
    numbers: np.ndarray
    ends: np.ndarray
    sizes: np.ndarray

    def mask(self, index: int, ground: int = VOID) -> OutlineMask:
        """The class mask of an image, `ground` outside of all outlines."""
        rows = self._rows_of(index)
        outlines = [self._outline(row, int(self.rows[row, 0])) for row in rows]
        return OutlineMask(self._size(index), outlines, ground)

    def objects(self, index: int) -> dict[int, OutlineMask]:
        """The masks of the objects of an image, by their numbers among its boxes."""
        found: dict[int, list[Outline]] = {}
        for row in self._rows_of(index):
            found.setdefault(int(self.rows[row, 3]), []).append(self._outline(row, 1))
        size = self._size(index)
        return {at: OutlineMask(size, outlines, ground=0) for at, outlines in found.items()}

    def _rows_of(self, index: int) -> range:
        return range(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    def _size(self, index: int) -> tuple[int, int]:
        return int(self.sizes[index, 0]), int(self.sizes[index, 1])

    def _outline(self, row: int, number: int) -> Outline:
        _, polygon, end, _ = self.rows[row].tolist()
        numbers = self.numbers[int(self.rows[row - 1, 2]) if row else 0 : end]
        corners = numbers.reshape(-1, 2) / _UNIT if polygon else None
        return Outline(number, corners, None if polygon else numbers)


_UNIT = 256  # COCO's corners have two decimals


def _segments(
    data: Mapping[str, Any], path: Path, damage: dict[str, str], places: Mapping[int, int]
) -> Segments | None:
    """Read the outlines, those of crowds first, then by decreasing area; None if there are none.

    `places` are the numbers of the annotations' boxes. Invalid outlines are counted in `damage`.
    """
    given = [(at, each) for at, each in enumerate(_objects(data)) if each.get("segmentation")]
    number = _numbers(data["categories"])
    if not given:
        return None
    sizes = {each["id"]: (int(each["width"]), int(each["height"])) for each in data["images"]}
    mine: dict[Any, list[tuple[float, int, bool, int, np.ndarray]]] = {image: [] for image in sizes}
    for at, annotation in given:
        if annotation["image_id"] not in mine:
            continue
        area = np.inf if annotation.get("iscrowd") else float(annotation.get("area", 0))
        kind = number.get(annotation["category_id"])
        try:
            if kind is None:
                raise ValueError("a category that is not listed")
            found = _outlines(annotation["segmentation"], sizes[annotation["image_id"]])
        except (KeyError, TypeError, ValueError, OverflowError):
            damage.setdefault(f"{path}:annotation {annotation.get('id', at)}", "segment")
            continue
        polygon = not isinstance(annotation["segmentation"], Mapping)
        own = places.get(at, -1)
        mine[annotation["image_id"]] += [(area, kind, polygon, own, numbers) for numbers in found]
    painted = [sorted(each, key=lambda outline: -outline[0]) for each in mine.values()]
    all_of_them = [outline for outlines in painted for outline in outlines]
    lengths = np.cumsum([len(numbers) for *_, numbers in all_of_them], dtype=np.int64)
    kinds = [(kind, polygon) for _, kind, polygon, _, _ in all_of_them]
    objects = np.array([own for *_, own, _ in all_of_them], np.int64)
    return Segments(
        rows=np.column_stack([np.array(kinds, np.int64).reshape(-1, 2), lengths, objects]),
        numbers=np.concatenate([np.zeros(0, np.int32), *(outline[4] for outline in all_of_them)]),
        ends=np.cumsum([len(outlines) for outlines in painted], dtype=np.int64),
        sizes=np.array(list(sizes.values()), np.int64),
    )


def _outlines(segmentation: Any, size: tuple[int, int]) -> list[np.ndarray]:
    """The corners of polygons, or the runs of an RLE, int32. Raises ValueError for invalid ones."""
    if isinstance(segmentation, Mapping):
        return [checked_runs(segmentation["counts"], size)]
    found = []
    for polygon in segmentation:
        corners = np.array(polygon, np.float64)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
            raise ValueError("a polygon of fewer than three corners")
        if not (np.abs(corners) < 1 << 22).all():
            raise ValueError("a corner far outside of any image")
        found.append(np.rint(corners * _UNIT).astype(np.int32))
    return found


def _numbers(categories: Sequence[Mapping[str, Any]]) -> dict[Any, int]:
    """The number of each category, in the order of their ids."""
    return {each: at for at, each in enumerate(sorted(category["id"] for category in categories))}


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
    """One sample per image, with all its captions, its boxes, their masks and, if `painted`, the mask
    `class`.

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
        masks: Segments | Panoptic | None = None,
        painted: bool = False,
        background: bool = False,
    ):
        self._background = background
        self._boxes = boxes
        self._masks = masks
        self._painted = masks if painted and isinstance(masks, Segments) else None
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
        ground = len(self._boxes.classes) if self._boxes and self._background else VOID
        texts = (self._captions[at].strip() for at in range(start, int(self._ends[index])))
        return Sample(
            key=self._images[index],
            source=self.name,
            images={"main": FileImage(str(Path(self.root, self._images[index])))},
            texts=tuple(Text(text=text) for text in texts if text),
            boxes=self._boxes_of(index),
            masks={"class": self._painted.mask(index, ground)} if self._painted else {},
        )

    def _boxes_of(self, index: int) -> tuple[Box, ...]:
        if self._boxes is None:
            return ()
        start = int(self._boxes.ends[index - 1]) if index else 0
        end = int(self._boxes.ends[index])
        rows = self._boxes.rows[start:end].tolist()
        classes = self._boxes.classes
        masks = self._masks.objects(index) if self._masks else {}
        return tuple(
            Box(xyxy=(x0, y0, x1, y1), text=classes[int(kind)], label=int(kind), mask=masks.get(at))
            for at, (kind, x0, y0, x1, y1) in enumerate(rows)
        )

    def keys(self) -> Sequence[str]:
        """The images' file names."""
        return self._images

    def schema(self) -> Schema:
        """Images, captions, and boxes and masks, as far as the file has them."""
        found = {"images.main": Field(kind="image")}
        if self._boxes is not None and self._masks is not None:
            found["boxes.mask"] = Field(kind="mask")
        if self._boxes is not None and self._painted:
            ground = ("background",) if self._background else ()
            found["masks.class"] = Field(kind="mask", classes=self._boxes.classes + ground)
        if self._boxes is not None:
            names = self._boxes.classes
            found["boxes"] = Field(kind="box", classes=names, stuff=self._boxes.stuff)
        if self._boxes is None or len(self._captions):
            found["texts.caption"] = Field(kind="text", optional=self._optional)
        return found
