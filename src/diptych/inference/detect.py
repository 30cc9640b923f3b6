"""Detection: the boxes of classes in every image of a source, by a detection model."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from diptych.data.sample import Source
from diptych.evaluation.embed import Progress, Steps, read_images
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


def find_in_images(
    model: Any,
    source: Source,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
    **options: float,
) -> tuple[list[Boxed], Counter[str]]:
    """Return the boxes of `model.classes` in every image `main`, in the source's order, and the
    number of unreadable images by reason.

    `options` are passed to `model.detect`. Raises InputError if no image can be read.
    """
    require(model, "detect", "finding in images")
    found: list[Boxed] = []
    bad: Counter[str] = Counter()

    steps = Steps(progress, len(source))
    for pixels, facts in read_images(
        model, source, name_and_size, bad, exact=False, batch_size=batch_size, steps=steps
    ):
        for (name, size), each in zip(
            facts, model.detect(pixels, batch_size=batch_size, **options), strict=True
        ):
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
