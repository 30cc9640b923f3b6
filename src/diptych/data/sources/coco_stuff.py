"""COCO-Stuff (`train2017/`, `val2017/`, `stuffthingmaps_trainval2017/` and `labels.txt` in one folder):
171 classes of things and stuff.

    val2017/000000000139.jpg
    stuffthingmaps_trainval2017/val2017/000000000139.png    the number of a class less 1, 255 no class
    labels.txt                                               a line "1: person" for each of 182 classes

Eleven of the classes occur in no image and are left out.

Source: Caesar et al. 2018 (COCO-Stuff: Thing and Stuff Classes in Context).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from diptych.data.compact import is_folder
from diptych.data.masks import VOID
from diptych.data.sources._masked import Masked, check_split
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "coco_stuff"
UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""The numbers of the classes that occur in no image."""
_MASKS = "stuffthingmaps_trainval2017"
_LIST = "labels.txt"
_LINE = re.compile(r"\s*(\d+)\s*:\s*(\S.*?)\s*")


@dataclass(frozen=True, kw_only=True)
class CocoStuffOptions:
    """Options of a folder: `split` is a folder of its masks, train2017 or val2017."""

    split: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with masks and the list of classes."""
    root = Path(spec.name)
    return is_folder(spec) and (root / _MASKS).is_dir() and (root / _LIST).is_file()


def open(spec: Spec) -> Masked:
    """Open `cocostuff/:split=val2017`. Raises InputError for a split that is not there."""
    options = configure(CocoStuffOptions, spec.options, f"source {spec.name!r}")
    root = Path(spec.name)
    splits = sorted(path.name for path in (root / _MASKS).iterdir() if path.is_dir())
    if not splits:
        raise InputError(f"{root / _MASKS}: no folders such as val2017; unpack the archive whole")
    split = check_split(root, splits, options.split)
    names = _classes(root / _LIST)
    return Masked(
        spec.name,
        root,
        sorted(path.stem for path in (root / _MASKS / split).glob("*.png")),
        image=split + "/{}.jpg",
        mask=f"{_MASKS}/{split}/{{}}.png",
        classes=tuple(names.values()),
        numbers={number - 1: at for at, number in enumerate(names)},
    )


def _classes(path: Path) -> dict[int, str]:
    """The names of the classes that occur, by their numbers."""
    names = {}
    for line in filter(str.strip, path.read_text("utf-8").splitlines()):
        found = _LINE.fullmatch(line)
        if found is None:
            raise InputError(
                f"{path}: {line!r} is no line such as '1: person'; copy the file again"
            )
        names[int(found[1])] = found[2]
    kept = {number: names[number] for number in sorted(names) if number not in (0, *UNUSED)}
    if not 0 < len(kept) < VOID:
        raise InputError(f"{path}: lists {len(kept)} classes, not 1 to {VOID - 1}; copy it again")
    return kept
