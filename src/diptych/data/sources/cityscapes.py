"""Cityscapes (`leftImg8bit/` and `gtFine/` in one folder): 19 classes of streets.

    leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png
    gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png

Of the 34 numbers in the files those that are evaluated are classes; the others are of no class (255).

Source: Cordts et al. 2016 (The Cityscapes Dataset for Semantic Urban Scene Understanding).
"""

from dataclasses import dataclass
from pathlib import Path

from diptych.data.compact import is_folder
from diptych.data.sources._masked import Masked, check_split
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "cityscapes"
IDS = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""The names of the classes by their numbers in the files."""
_IMAGE = "_leftImg8bit.png"
_MASK = "_gtFine_labelIds.png"


@dataclass(frozen=True, kw_only=True)
class CityscapesOptions:
    """Options of a folder: `split` is train or val; the masks of test are not published."""

    split: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with both archives."""
    return is_folder(spec) and all(
        (Path(spec.name) / name).is_dir() for name in ("leftImg8bit", "gtFine")
    )


def open(spec: Spec) -> Masked:
    """Open `cityscapes/:split=val`. Raises InputError for a split that is not there."""
    options = configure(CityscapesOptions, spec.options, f"source {spec.name!r}")
    root = Path(spec.name)
    splits = sorted(path.name for path in (root / "gtFine").iterdir() if path.is_dir())
    if not splits:
        raise InputError(f"{root / 'gtFine'}: no folders such as val; unpack the archive whole")
    split = check_split(root, splits, options.split)
    found = sorted((root / "leftImg8bit" / split).glob(f"*/*{_IMAGE}"))
    return Masked(
        spec.name,
        root,
        [f"{path.parent.name}/{path.name.removesuffix(_IMAGE)}" for path in found],
        image=f"leftImg8bit/{split}/{{}}{_IMAGE}",
        mask=f"gtFine/{split}/{{}}{_MASK}",
        classes=tuple(IDS.values()),
        numbers={number: at for at, number in enumerate(IDS)},
    )
