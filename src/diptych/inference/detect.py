"""Detection: the boxes of classes in every image of a source, by a detection model."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.images import FileImage, is_image, size_of
from diptych.data.sample import EncodedImage, Sample, Source, lost_samples
from diptych.data.sources import DataLike, open_source
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.inference.instances import InstanceFolder, instance_folder
from diptych.inference.pictures import name_and_size
from diptych.methods.abilities import require


@dataclass(frozen=True)
class Boxed:
    """A box in the pixels of an image (left, top, right, bottom), with its class and score; the
    image is given by its file, or its key."""

    image: str
    name: str
    score: float
    box: tuple[float, float, float, float]


def detect_images(
    model: Any,
    images: DataLike,
    *,
    masks: str | Path | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
    **options: float,
) -> tuple[list[Boxed], Counter[str]]:
    """Return the boxes of `model.classes` in every image of a source, or in one image file, in order,
    and the number of unreadable images by reason.

    `options` are passed to `model.detect`. With `masks` a new folder of this name gets the masks of the
    objects (`inference.instances.InstanceFolder`). Raises InputError if no image can be read, for a
    folder that is not empty, and for masks of a model that finds none.
    """
    require(model, "detect", "finding in images")
    settings = {**options, "batch_size": batch_size}
    with ExitStack() as stack:
        folder = None
        if masks is not None:
            model.require_masks()
            written = instance_folder(Path(masks).expanduser(), model.classes)
            folder = stack.enter_context(written)
            settings["masks"] = True
        if not (isinstance(images, str | Path) and is_image(images)):
            return find_in_images(
                model, open_source(images), folder=folder, progress=progress, **settings
            )
        image = FileImage(str(images))
        [each] = model.detect(str(images), **settings)
        if folder is not None:
            folder.write(str(images), image, each)
        return boxed(str(images), size_of(image), each, model.classes), Counter()


def find_in_images(
    model: Any,
    source: Source,
    *,
    folder: InstanceFolder | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
    **options: float,
) -> tuple[list[Boxed], Counter[str]]:
    """Return what `detect_images` does, of a source; `folder` gets the masks of the objects, which
    `options` ask for."""
    require(model, "detect", "finding in images")
    found: list[Boxed] = []
    bad = lost_samples(source)

    def read(sample: Sample) -> tuple[str, tuple[int, int], EncodedImage]:
        name, size = name_and_size(sample)
        return name, size, sample.images["main"]

    steps = Steps(progress, len(source))
    for pixels, facts in read_images(
        model, source, read, bad, exact=False, batch_size=batch_size, steps=steps
    ):
        for (name, size, image), each in zip(
            facts, model.detect(pixels, batch_size=batch_size, **options), strict=True
        ):
            if folder is not None:
                folder.write(name, image, each)
            found += boxed(name, size, each, model.classes)
    return found, bad


def boxed(image: str, size: tuple[int, int], found: Any, classes: tuple[str, ...]) -> list[Boxed]:
    """Return the detections in an image of some size (width, height), in pixels."""
    width, height = size
    rows = zip(found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True)
    return [
        Boxed(image, classes[at], score, (x0 * width, y0 * height, x1 * width, y1 * height))
        for (x0, y0, x1, y1), at, score in rows
    ]
