"""ADE20K as in the challenge on scene parsing (`ADEChallengeData2016/`): 150 classes of things and
stuff.

    images/training/ADE_train_00000001.jpg         images/validation/ADE_val_00000001.jpg
    annotations/training/ADE_train_00000001.png    0 other, 1 … 150 the classes
    objectInfo150.txt                              Idx, Ratio, Train, Val, Name, separated by tabs

Pixels of other things are of no class (255), so the classes are numbered from 0. Of several names of
a class the first is taken.

Source: Zhou et al. 2017 (Scene Parsing through ADE20K).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.masks import VOID, MadeMask, Mask
from diptych.data.sample import Field, Sample, Schema
from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure

FORMAT = "ade20k"
_NAMES = "objectInfo150.txt"
_IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, kw_only=True)
class AdeOptions:
    """Options of a folder: `split` is a folder of its images, training or validation."""

    split: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with images, annotations and the list of
    classes."""
    return is_folder(spec) and (Path(spec.name) / _NAMES).is_file()


def open(spec: Spec) -> "Ade20k":
    """Open `ADEChallengeData2016/:split=training`. Raises InputError for a split that is not there."""
    options = configure(AdeOptions, spec.options, f"source {spec.name!r}")
    root = Path(spec.name)
    splits = sorted(path.name for path in (root / "images").glob("*") if path.is_dir())
    if not splits:
        raise InputError(
            f"{root}: no folder images/training as in ADEChallengeData2016; unpack the archive whole"
        )
    if options.split is None:
        raise InputError(
            f"{root}: holds the splits {', '.join(splits)}; choose one, such as :split={splits[0]}"
        )
    if options.split not in splits:
        raise unknown(f"split of {root}", options.split, splits)
    return Ade20k(spec.name, root, options.split)


def _classes(path: Path) -> tuple[str, ...]:
    """The first name of each class, or all of them where two classes begin alike."""
    names = {}
    lines = path.read_text("utf-8").splitlines()[1:]
    for number, line in enumerate((line for line in lines if line.strip()), 1):
        cells = line.split("\t")
        if cells[0].strip() != str(number) or len(cells) < 5 or not cells[-1].strip():
            raise InputError(
                f"{path}: line {number + 1} is not class {number} with its name; copy the file again"
            )
        names[number] = cells[-1].strip()
    if not 0 < len(names) < VOID:
        raise InputError(f"{path}: lists {len(names)} classes, not 1 to {VOID - 1}; copy it again")
    firsts = {number: name.partition(",")[0].strip() for number, name in names.items()}
    counts = Counter(firsts.values())
    return tuple(first if counts[first] == 1 else names[number] for number, first in firsts.items())


@dataclass(frozen=True, slots=True)
class ShiftedMask(MadeMask):
    """A mask whose numbers begin at 1; 0 is no class."""

    mask: Mask

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The classes of all pixels, at full size as in `Mask`."""
        plane = np.asarray(self.mask.decode(), np.uint8)
        return Image.fromarray(plane - np.uint8(1))  # 0 becomes 255


class Ade20k:
    """One sample for each image of a split, with the mask `class`. Images without an annotation are
    counted in `damage`."""

    def __init__(self, name: str, root: Path, split: str):
        self.name = name
        self.root = str(root)
        self.split = split
        self._classes = _classes(root / _NAMES)
        held = {path.stem for path in (root / "annotations" / split).glob("*.png")}
        images = sorted(
            path.name
            for path in (root / "images" / split).iterdir()
            if path.suffix.lower() in _IMAGES and path.name[0] != "."
        )
        kept = [image for image in images if Path(image).stem in held]
        if not kept:
            raise InputError(
                f"{root}: none of the {len(images)} images of {split} has an annotation in annotations/{split}; "
                "unpack the archive whole"
            )
        self.damage = {
            str(root / "images" / split / image): "no-mask"
            for image in images
            if Path(image).stem not in held
        }
        self._images = Strings(kept)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        image = self._images[range(len(self))[index]]
        drawn = Path(self.root, "annotations", self.split, f"{Path(image).stem}.png")
        return Sample(
            key=image,
            source=self.name,
            images={"main": FileImage(str(Path(self.root, "images", self.split, image)))},
            masks={"class": ShiftedMask(Mask(FileImage(str(drawn))))},
        )

    def keys(self) -> Sequence[str]:
        """The images' file names."""
        return self._images

    def schema(self) -> Schema:
        """Images with masks."""
        return {
            "images.main": Field(kind="image"),
            "masks.class": Field(kind="mask", classes=self._classes),
        }
