"""Selectivity: whether the positions on an object are similar to its own words and to no others.

    own     the mean heat of an object's words, over the positions on it
    other   that of the words of the image's other objects, which are not its own
    selectivity = own - other, the mean over objects

Objects are boxes with a class name or a text, whose words these are; images are read whole, squashed to
the model's size. A position is on an object if its centre lies in the box; of a box without one, that
in which the box's centre lies. Chance is 0.

Source: Liu et al. 2023 (CG-VLM), maps of the cosine of patches with words.

Dimensions: K words, h x w positions.
"""

from collections import Counter
from typing import Any

import numpy as np

from diptych.data.boxes import shares
from diptych.data.images import size_of
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Reader, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.methods.abilities import require
from diptych.models.regions import squashed

card = {
    "title": "Selectivity: positions on an object against its own words and others",
    "needs": ["images.main", "boxes"],
    "abilities": ["preprocess", "heat"],
}


def ready(model: Any, source: Source) -> None:
    """Raise InputError for a model without heat."""
    require(model, "heat", "selectivity")


def selectivity(
    model: Any,
    source: Source,
    *,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above, over the objects of images whose objects have different names.

    Also returned: `n` objects, `bad` samples by reason, and the protocol. Raises InputError if there is
    no such object.
    """
    ready(model, source)
    steps = Steps(progress, len(source))
    bad = Counter[str]()
    classes = source.schema()["boxes"].classes
    reader = Reader(squashed(model.preprocess))

    def named(sample: Sample) -> tuple[np.ndarray, list[list[str]]]:
        boxes, names = shares(sample, size_of(sample.images["main"]), classes)
        words = [list(dict.fromkeys(name.lower().split())) for name in names]
        if len(set(map(tuple, words))) < 2:
            raise BadSample("one-name", f"{sample.key} has no two objects of different names")
        return boxes, words

    own: list[float] = []
    other: list[float] = []
    for pixels, facts in read_images(
        reader, source, named, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        for image, (boxes, words) in zip(pixels, facts, strict=True):
            every = sorted({word for each in words for word in each})
            heat = model.heat(image[None], every)[0].numpy()
            for box, mine in zip(boxes, words, strict=True):
                theirs = np.array([word not in mine for word in every])
                if not theirs.any():
                    continue
                means = heat[:, on_box(box, heat.shape[1:])].mean(1)
                own.append(float(means[~theirs].mean()))
                other.append(float(means[theirs].mean()))
    if not own:
        raise InputError(f"no image of source {source.name!r} has objects of different names")
    protocol = protocol_of(
        "selectivity",
        source,
        model,
        exact=exact,
        field="boxes",
        classes=tuple(classes),
        rule="words of names; positions by their centres; images squashed",
    )
    return {
        "selectivity": float(np.mean(own) - np.mean(other)),
        "chance_selectivity": 0.0,
        "own": float(np.mean(own)),
        "other": float(np.mean(other)),
        "n": len(own),
        "bad": dict(bad),
    } | describe(protocol, model)


def on_box(box: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """The positions (h, w) bool whose centres lie in a box x0, y0, x1, y1 of shares; without one, that
    which holds the box's centre.

    >>> on_box(np.array([0, 0, 0.5, 1]), (1, 2)), on_box(np.array([0.6, 0, 0.7, 0.1]), (1, 2))
    (array([[ True, False]]), array([[False,  True]]))
    """
    height, width = grid
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height) + 0.5) / height
    inside = ((y >= box[1]) & (y <= box[3]))[:, None] & ((x >= box[0]) & (x <= box[2]))
    if not inside.any():
        column = min(int((box[0] + box[2]) / 2 * width), width - 1)
        row = min(int((box[1] + box[3]) / 2 * height), height - 1)
        inside[row, column] = True
    return inside
