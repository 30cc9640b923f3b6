"""Segmentation: the class of every pixel of the images of a source, by a model that has `segment`.

Dimensions: C classes, S x S pixels of a preprocessed image, H x W pixels of an image.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.images import FileImage, Preprocess, is_image, size_of
from diptych.data.masks import VOID
from diptych.data.sample import BadSample, lost_samples
from diptych.data.sources import DataLike, open_source
from diptych.data.templates import templates as banks
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, nothing_left, read_images
from diptych.inference.folders import FileNames, new_folder
from diptych.inference.pictures import name_and_size
from diptych.methods.abilities import require
from diptych.models.adapted import TrainedClassesModel
from diptych.models.class_names import read_names
from diptych.models.dense import background_below
from diptych.models.heat import heat_map
from diptych.results import Tabular

LEGEND = "legend.json"


@dataclass(frozen=True)
class Segmented:
    """An image by its file or key, the share of each class in the pixels that the model sees, the
    largest first, and the file name of the label map if there is one."""

    image: str
    shares: tuple[tuple[str, float], ...]
    file: str = ""


class Segmentation(Tabular, list[Segmented]):
    """The images of a source with the shares of `classes`; `bad` are the numbers of those that cannot
    be read, by reason."""

    classes: tuple[str, ...] = ()
    bad: Mapping[str, int] = MappingProxyType({})

    def records(self) -> list[dict[str, Any]]:
        """A row for each image, with a column for each class."""
        return [{"image": each.image, **dict(each.shares)} for each in self]


def segment_source(
    model: Any,
    images: DataLike,
    names: Sequence[str] | str | Path | None = None,
    *,
    templates: Sequence[str] | None = None,
    route: str = "tokens",
    whole: bool = False,
    background: float | None = None,
    out: str | Path | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> Segmentation:
    """Segment every image of a source, or one image file, by the classes `names`, which stay set in
    the model.

    `names` are a list, "a,b", or a file with one on each line, by default the classes that a model
    was trained on; `templates` are prompts around a name or banks of them (`data.templates`), by
    default "images" for a model without prompts of its own; `route` is that of `Model.represent`. With
    `whole` a model that was trained to segment slides over all of an image (`segment_whole`).
    `background` is the score below which a model of segments finds the class of this name. With
    `out` a new folder gets the label maps and their legend (`LabelMaps`). Raises InputError for a
    model without positions, for more than 255 classes, and if no image can be read.
    """
    require(model, "segment", "diptych segment", model.name)
    if whole:
        require(model, "segment_whole", "segmenting whole images", model.name)
        if route != "tokens":
            raise InputError(
                f"{model.name} segments whole images in its own way, which has no route {route!r}; leave it out"
            )
    _set_classes(model, names, templates)
    found = Segmentation()
    found.classes = tuple(model.classes)
    found.bad = bad = Counter()
    with ExitStack() as stack:
        stack.enter_context(background_below(model, background))
        maps = None
        if out is not None:
            written = label_maps(Path(out).expanduser(), model.preprocess, found.classes)
            maps = stack.enter_context(written)
        if whole:
            for name, own in _whole(model, images, bad, batch_size, progress):
                file = "" if maps is None else maps.write_whole(name, own)
                found.append(Segmented(name, shares(own, found.classes), file))
            found.title = f"{images} by {model.name}"
            return found
        settings: dict[str, Any] = {"exact": exact, "batch_size": batch_size, "progress": progress}
        for pixels, facts in _pictures(model, images, bad, **settings):
            labels = model.segment(pixels, batch_size=batch_size, route=route)
            for (name, size), own in zip(facts, labels, strict=True):
                file = "" if maps is None else maps.write(name, size, own)
                found.append(Segmented(name, shares(own, found.classes), file))
    found.title = f"{images} by {model.name}"
    return found


def _set_classes(
    model: Any, names: Sequence[str] | str | Path | None, templates: Sequence[str] | None
) -> None:
    """Set the classes that are named, or keep those of training."""
    trained = isinstance(model, TrainedClassesModel)  # it has prompts of its own
    if names is None and not (trained and model.classes):
        raise InputError(
            "diptych segment has no classes; give --names 'A,B,C', or a file with one a line"
        )
    given = list(model.classes) if names is None else read_names(names)
    if len(given) > VOID:
        raise InputError(f"a label map has at most {VOID} classes, not {len(given)}; name fewer")
    specs = templates if templates is not None else () if trained else ("images",)
    model.set_classes(given, [template for spec in specs for template in banks(spec)])


def _whole(
    model: Any,
    images: DataLike,
    bad: Counter[str],
    batch_size: int,
    progress: Progress | None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each image, its file or key, and the classes of all of its pixels."""
    if isinstance(images, str | Path) and is_image(images):
        yield str(images), model.segment_whole(FileImage(str(images)), batch_size=batch_size)
        return
    source = open_source(images)
    bad.update(lost_samples(source))
    steps = Steps(progress, len(source))
    read = False
    for index in range(len(source)):
        try:
            sample = source[index]
            name, _ = name_and_size(sample)
            labels = model.segment_whole(sample.images["main"], batch_size=batch_size)
        except BadSample as error:
            bad[error.reason] += 1
            continue
        finally:
            steps.add(1)
        read = True
        yield name, labels
    if not read:
        raise nothing_left(source, bad)


def _pictures(
    model: Any,
    images: DataLike,
    bad: Counter[str],
    *,
    exact: bool,
    batch_size: int,
    progress: Progress | None,
) -> Iterator[tuple[Tensor, list[tuple[str, tuple[int, int]]]]]:
    """Yield pixels, with the name (file or key) and the size (width, height) of each image."""
    if isinstance(images, str | Path) and is_image(images):
        image = FileImage(str(images))
        pixels = model.preprocess.read(image, exact=exact)[None]
        yield pixels, [(str(images), size_of(image))]
        return
    source = open_source(images)
    bad.update(lost_samples(source))
    steps = Steps(progress, len(source))
    yield from read_images(
        model, source, name_and_size, bad, exact=exact, batch_size=batch_size, steps=steps
    )


def shares(labels: Tensor, names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return the share of each class in labels (S, S), the largest first.

    >>> shares(torch.tensor([[0, 1], [1, 1]]), ("sky", "sea", "sand"))
    (('sea', 0.75), ('sky', 0.25), ('sand', 0.0))
    """
    counts = torch.bincount(labels.flatten(), minlength=len(names)).double() / labels.numel()
    order = counts.argsort(descending=True, stable=True)
    return tuple((names[int(at)], float(counts[at])) for at in order)


@contextmanager
def label_maps(out: Path, preprocess: Preprocess, names: Sequence[str]) -> Iterator["LabelMaps"]:
    """Yield what writes label maps of these classes to the new folder `out`, which is there at the end
    if no error was raised.

    Raises InputError for a folder that is not empty.
    """
    with new_folder(out, "--out") as folder:
        maps = LabelMaps(folder, preprocess)
        yield maps
        maps.write_legend(names)


class LabelMaps:
    """A folder of label maps: a PNG for each image, of its size, whose pixels are numbers of classes,
    255 where the model does not see the image. legend.json has names and colours."""

    def __init__(self, folder: Path, preprocess: Preprocess):
        self.folder = folder
        self.preprocess = preprocess
        self.files = FileNames()

    def write(self, name: str, size: tuple[int, int], labels: Tensor) -> str:
        """Write the map of an image of width and height `size`, and return its file name."""
        whole = heat_map(labels.float(), self.preprocess, size, sigma=0)
        return self.write_whole(name, whole.nan_to_num(VOID))

    def write_whole(self, name: str, labels: Tensor) -> str:
        """Write the map of all pixels (H, W) of an image, and return its file name."""
        image = Image.fromarray(labels.to(torch.uint8).numpy())
        image.putpalette(palette().tobytes())
        file = self.files.free(name)
        image.save(self.folder / file)
        return file

    def write_legend(self, names: Sequence[str]) -> None:
        """Write the names and colours of the classes."""
        colours = palette().tolist()
        classes = [
            {"number": number, "name": name, "colour": colours[number]}
            for number, name in enumerate(names)
        ]
        text = json.dumps({"classes": classes, "unseen": VOID}, ensure_ascii=False, indent=1)
        (self.folder / LEGEND).write_text(text + "\n", encoding="utf-8")


def palette() -> np.ndarray:
    """Return the colours (256, 3) of label maps, uint8: those of PASCAL VOC from its first object on,
    and black for 255.

    >>> palette()[:3].tolist()
    [[128, 0, 0], [0, 128, 0], [128, 128, 0]]
    """
    numbers = np.arange(1, 257)
    colours = np.zeros((256, 3), np.uint8)
    for place in range(8):  # three bits of the number are one bit of red, green and blue
        for channel in range(3):
            bit = numbers >> (3 * place + channel) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    colours[VOID] = 0
    return colours
