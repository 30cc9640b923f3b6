"""Finding: the boxes of classes in every picture of a source, by a model that detects."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from diptych.data.pictures import FilePicture
from diptych.data.sample import Sample, Source
from diptych.evaluation import able
from diptych.evaluation.embed import Progress, Steps, main_picture, read_pictures


@dataclass(frozen=True)
class Boxed:
    """A box in the pixels of a picture (left, top, right, bottom), with its class and score; the picture by its file,
    or its key."""

    picture: str
    name: str
    score: float
    box: tuple[float, float, float, float]


def find_in_pictures(
    model: Any,
    source: Source,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
    **how: float,
) -> tuple[list[Boxed], Counter[str]]:
    """The boxes of `model.classes` in every picture `main`, in the source's order, and how many pictures could not be
    read, by reason. `how` are options of `model.detect`. Raises InputError where no picture can be read."""
    able("finding in pictures", model, "detect")
    found: list[Boxed] = []
    bad: Counter[str] = Counter()

    def told(sample: Sample) -> tuple[str, tuple[int, int]]:
        [picture] = main_picture(sample)
        return picture.path if isinstance(picture, FilePicture) else sample.key, picture.decode().size

    steps = Steps(progress, len(source))
    for pixels, facts in read_pictures(model, source, told, bad, exact=False, batch_size=batch_size, steps=steps):
        for (name, size), each in zip(facts, model.detect(pixels, batch_size=batch_size, **how), strict=True):
            found += boxed(name, size, each, model.classes)
    return found, bad


def boxed(picture: str, size: tuple[int, int], found: Any, classes: tuple[str, ...]) -> list[Boxed]:
    """What was found in a picture of so many pixels (width, height), in pixels."""
    width, height = size
    rows = zip(found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True)
    return [
        Boxed(picture, classes[at], score, (x0 * width, y0 * height, x1 * width, y1 * height))
        for (x0, y0, x1, y1), at, score in rows
    ]
