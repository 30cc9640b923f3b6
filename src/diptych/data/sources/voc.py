"""PASCAL VOC's segmentation (`VOCdevkit/VOC2012/`): 20 classes of things and the background.

    JPEGImages/2007_000033.jpg
    SegmentationClass/2007_000033.png      0 background, 1 … 20 the classes, 255 the edges of things
    ImageSets/Segmentation/val.txt         a name on each line

Names of two words are written apart ("dining table"), as texts have them.

Source: Everingham et al. 2010 (The PASCAL Visual Object Classes Challenge).
"""

from dataclasses import dataclass
from pathlib import Path

from diptych.data.compact import is_folder
from diptych.data.sources._masked import Masked, check_split
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "voc"
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant"),
    *("sheep", "sofa", "train", "tv monitor"),
)
_LISTS = "ImageSets/Segmentation"
_MASKS = "SegmentationClass"


@dataclass(frozen=True, kw_only=True)
class VocOptions:
    """Options of a folder: `split` is one of its lists, such as train, val or trainval."""

    split: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with masks and lists."""
    return is_folder(spec) and all((Path(spec.name) / name).is_dir() for name in (_LISTS, _MASKS))


def open(spec: Spec) -> Masked:
    """Open `VOCdevkit/VOC2012/:split=val`. Raises InputError for a split that is not there."""
    options = configure(VocOptions, spec.options, f"source {spec.name!r}")
    root = Path(spec.name)
    splits = sorted(path.stem for path in (root / _LISTS).glob("*.txt"))
    if not splits:
        raise InputError(f"{root / _LISTS}: no lists such as val.txt; unpack the archive whole")
    split = check_split(root, splits, options.split)
    listed = (root / _LISTS / f"{split}.txt").read_text("utf-8").split()
    return Masked(
        spec.name,
        root,
        listed,
        image="JPEGImages/{}.jpg",
        mask=_MASKS + "/{}.png",
        classes=CLASSES,
    )
