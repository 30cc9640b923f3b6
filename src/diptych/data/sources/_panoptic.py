"""The segments of COCO's panoptic files: images beside `panoptic_val2017.json`, in the folder
`panoptic_val2017/`, whose colours are the numbers of segments, r + 256 g + 65536 b.

Source: Kirillov et al. 2019 (Panoptic Segmentation).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.compact import Strings
from diptych.data.images import FileImage
from diptych.data.masks import MadeMask


class SegmentNumbers:
    """The numbers of the segments of an image (H, W), decoded once for all of its segments."""

    def __init__(self, image: FileImage):
        self._image = image

    @cached_property
    def plane(self) -> np.ndarray:
        """The number of each pixel."""
        colours = np.asarray(self._image.decode().convert("RGB"), np.int64)
        return colours @ np.array([1, 1 << 8, 1 << 16])


@dataclass(frozen=True, eq=False)
class SegmentMask(MadeMask):
    """The mask of the segment with a `number`."""

    numbers: SegmentNumbers
    number: int

    def decode(self, at_least: int | None = None) -> Image.Image:
        """1 in the segment, 0 outside of it, at full size."""
        return Image.fromarray((self.numbers.plane == self.number).astype(np.uint8))


class Panoptic:
    """The masks of the segments of all images, of which `rows` are the numbers (n,) and `ends` (N,) the end
    of each image's."""

    def __init__(self, folder: Path, files: Iterable[str], rows: np.ndarray, ends: np.ndarray):
        self._folder = str(folder)
        self._files = Strings(files)
        self._rows = rows
        self._ends = ends

    def objects(self, index: int) -> dict[int, SegmentMask]:
        """The masks of the segments of an image, by their numbers among its boxes."""
        if not (file := self._files[index]):
            return {}
        start = int(self._ends[index - 1]) if index else 0
        numbers = SegmentNumbers(FileImage(str(Path(self._folder, file))))
        rows = self._rows[start : int(self._ends[index])].tolist()
        return {at: SegmentMask(numbers, number) for at, number in enumerate(rows)}


def panoptic(data: Mapping[str, Any], path: Path, boxed: Mapping[int, int]) -> Panoptic | None:
    """The segments of a panoptic file that have boxes, which `boxed` lists by their places in the file;
    None for any other file, and where their images are not in the folder beside it."""
    folder = path.with_suffix("")
    files = {image["id"]: "" for image in data["images"]}
    own: dict[Any, list[int]] = {image: [] for image in files}
    at = 0
    for annotation in data.get("annotations", ()):
        segments = annotation.get("segments_info")
        if segments is None:
            return None
        if annotation["image_id"] in files:
            files[annotation["image_id"]] = str(annotation["file_name"])
        for place, segment in enumerate(segments, at):
            if place in boxed:
                own[annotation["image_id"]].append(int(segment["id"]))
        at += len(segments)
    if not any(files.values()) or not folder.is_dir():
        return None
    rows = np.array([number for numbers in own.values() for number in numbers], np.int64)
    ends = np.cumsum([len(numbers) for numbers in own.values()], dtype=np.int64)
    return Panoptic(folder, files.values(), rows, ends)
