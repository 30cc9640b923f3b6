"""ImageNet-S (`ImageNetS50/`): masks of the class of an image of ImageNet.

    validation/n01443537/ILSVRC2012_val_00000236.JPEG
    validation-segmentation/n01443537/ILSVRC2012_val_00000236.png    red + 256 green is the number of a class
    train-semi/…, train-semi-segmentation/…                          ten images of each class
    LOC_synset_mapping.txt                                           lines "n01443537 goldfish, Carassius auratus"

0 is what is of no class (`background`), 1000 what is not evaluated (255), and other numbers count the folders
in the order of their names. The names are ImageNet's own; their file is in the folder, in that above it, or
at `:names=FILE`. A class mask holds at most 255 numbers, so of the three sets ImageNetS50 can be read.

Source: Gao et al. 2022 (Large-scale Unsupervised Semantic Segmentation).
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.data.compact import is_folder
from diptych.data.images import FileImage
from diptych.data.masks import VOID, MadeMask
from diptych.data.sources._masked import Masked, check_split
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "imagenet_s"
SPLITS = ("train-semi", "validation")
"""The splits whose masks are published."""
_MASKS = "-segmentation"
_NAMES = "LOC_synset_mapping.txt"


@dataclass(frozen=True, kw_only=True)
class ImageNetSOptions:
    """Options of a folder: `split` is train-semi or validation; `names` is the file of class names."""

    split: str | None = None
    names: str | None = None


@dataclass(frozen=True, slots=True)
class ColourMask(MadeMask):
    """A mask whose numbers are red + 256 green; those above `most` are of no class."""

    image: FileImage
    most: int

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The classes of all pixels, at full size. Raises BadSample as `FileImage.decode`."""
        colours = np.asarray(self.image.decode().convert("RGB")).astype(np.int32)
        numbers = colours[..., 0] + 256 * colours[..., 1]
        return Image.fromarray(np.where(numbers > self.most, VOID, numbers).astype(np.uint8))


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with images and masks of a split."""
    root = Path(spec.name)
    return is_folder(spec) and any(
        (root / split).is_dir() and (root / f"{split}{_MASKS}").is_dir() for split in SPLITS
    )


def open(spec: Spec) -> Masked:
    """Open `ImageNetS50/:split=validation`. Raises InputError for a split or names that are not there."""
    options = configure(ImageNetSOptions, spec.options, f"source {spec.name!r}")
    root = Path(spec.name)
    splits = [split for split in SPLITS if (root / f"{split}{_MASKS}").is_dir()]
    split = check_split(root, splits, options.split)
    folders = sorted(path.name for path in (root / f"{split}{_MASKS}").iterdir() if path.is_dir())
    if not 0 < len(folders) < VOID:
        raise InputError(
            f"{root} has {len(folders)} classes, and a class mask holds 1 to {VOID - 1}; name ImageNetS50"
        )
    found = sorted((root / f"{split}{_MASKS}").glob("*/*.png"))
    return Masked(
        spec.name,
        root,
        [f"{path.parent.name}/{path.stem}" for path in found],
        image=f"{split}/{{}}.JPEG",
        mask=f"{split}{_MASKS}/{{}}.png",
        classes=("background", *_classes(_names_file(root, options.names), folders)),
        read_mask=partial(ColourMask, most=len(folders)),
    )


def _names_file(root: Path, named: str | None) -> Path:
    if named is not None:
        return Path(named)
    for folder in (root, root.absolute().parent):
        if (folder / _NAMES).is_file():
            return folder / _NAMES
    raise InputError(
        f"{root}: the folders are numbers of WordNet; copy {_NAMES} of ImageNet into it, or name the file with "
        ":names=FILE"
    )


def _classes(path: Path, folders: list[str]) -> tuple[str, ...]:
    """The first name of each class, or all of them where two begin alike."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; name ImageNet's {_NAMES} with :names=FILE")
    names: dict[str, str] = {}
    for line in path.read_text("utf-8").splitlines():
        number, _, name = line.partition(" ")
        names[number] = name.strip()
    lacking = [folder for folder in folders if not names.get(folder)]
    if lacking:
        raise InputError(
            f"{path}: has no line such as '{lacking[0]} goldfish'; name ImageNet's {_NAMES} with :names=FILE"
        )
    firsts = {folder: names[folder].partition(",")[0].strip() for folder in folders}
    counts = Counter(firsts.values())
    return tuple(first if counts[first] == 1 else names[folder] for folder, first in firsts.items())
