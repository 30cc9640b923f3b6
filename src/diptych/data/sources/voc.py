"""PASCAL VOC's segmentation (`VOCdevkit/VOC2012/`): 20 classes of things and the background.

    JPEGImages/2007_000033.jpg
    SegmentationClass/2007_000033.png      0 background, 1 … 20 the classes, 255 the edges of things
    ImageSets/Segmentation/val.txt         a name on each line

PASCAL Context (`VOCdevkit/VOC2010/:masks=context`): 59 classes of things and stuff, and the background, of
the images of 2010, as published or as converted by mmsegmentation.

    59_context_labels/2008_000002.png              0 background, 1 … 59 by the lines "1: aeroplane" of
    59_labels.txt                                  this file
    ImageSets/Main/val.txt

    SegmentationClassContext/2008_000002.png       0 background, 1 … 59 the classes in alphabetical order
    ImageSets/SegmentationContext/val.txt

Names of two words are written apart ("dining table"), as texts have them.

Sources: Everingham et al. 2010 (The PASCAL Visual Object Classes Challenge); Mottaghi et al. 2014 (The Role
of Context for Object Detection and Semantic Segmentation in the Wild).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
CONTEXT = (
    *("background", "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat"),
    *("book", "bottle", "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth"),
    *("computer", "cow", "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food"),
    *("grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person"),
    *("plate", "platform", "potted plant", "road", "rock", "sheep", "shelves", "sidewalk", "sign"),
    *("sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tv monitor", "wall"),
    *("water", "window", "wood"),
)
"""The classes of the converted masks of PASCAL Context."""
_LISTS = "ImageSets/Segmentation"
_MASKS = "SegmentationClass"
_NAMES = "59_labels.txt"
_PUBLISHED = ("59_context_labels", "ImageSets/Main")
_CONVERTED = ("SegmentationClassContext", "ImageSets/SegmentationContext")
_APART = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}


@dataclass(frozen=True, kw_only=True)
class VocOptions:
    """Options of a folder: `split` is one of its lists, such as train, val or trainval; `masks` are those
    of the 20 classes, or of PASCAL Context."""

    split: str | None = None
    masks: Literal["class", "context"] = "class"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with masks and lists."""
    return is_folder(spec) and any(
        all((Path(spec.name) / name).is_dir() for name in pair)
        for pair in ((_MASKS, _LISTS), _CONVERTED, _PUBLISHED)
    )


def open(spec: Spec) -> Masked:
    """Open `VOCdevkit/VOC2012/:split=val`. Raises InputError for a split or masks that are not there."""
    options = configure(VocOptions, spec.options, f"source {spec.name!r}")
    root = Path(spec.name)
    masks, lists, classes = _form(root, options.masks)
    splits = sorted(path.stem for path in (root / lists).glob("*.txt"))
    if lists == _PUBLISHED[1]:  # where each class has lists as well
        splits = [split for split in splits if "_" not in split]
    if not splits:
        raise InputError(f"{root / lists}: no lists such as val.txt; unpack the archive whole")
    split = check_split(root, splits, options.split)
    listed = (root / lists / f"{split}.txt").read_text("utf-8").split()
    return Masked(
        spec.name,
        root,
        listed,
        image="JPEGImages/{}.jpg",
        mask=masks + "/{}.png",
        classes=classes,
    )


def _form(root: Path, masks: str) -> tuple[str, str, tuple[str, ...]]:
    """The folders of the masks and of the lists, and the classes."""
    if masks == "class":
        if not (root / _MASKS).is_dir():
            raise InputError(f"{root} has no folder {_MASKS}; its masks are of :masks=context")
        return _MASKS, _LISTS, CLASSES
    if (root / _CONVERTED[0]).is_dir():
        return *_CONVERTED, CONTEXT
    if (root / _PUBLISHED[0]).is_dir():
        return *_PUBLISHED, _context_classes(root / _NAMES)
    raise InputError(
        f"{root} has no masks of PASCAL Context; unpack 59_context_labels.tar.gz into it, or convert them to "
        f"{_CONVERTED[0]}"
    )


def _context_classes(path: Path) -> tuple[str, ...]:
    """The background, and the names in the file that comes with the published masks."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; it comes with the masks, and names their classes")
    names = []
    for line in filter(str.strip, path.read_text("utf-8").splitlines()):
        number, _, name = (part.strip() for part in line.partition(":"))
        if number != str(len(names) + 1) or not name:
            raise InputError(
                f"{path}: {line!r} is not class {len(names) + 1} as in '1: aeroplane'; copy the file again"
            )
        names.append(_APART.get(name, name))
    if len(names) != len(CONTEXT) - 1 or len(set(names)) < len(names):
        raise InputError(f"{path}: lists {len(set(names))} classes, not 59; copy it again")
    return ("background", *names)
