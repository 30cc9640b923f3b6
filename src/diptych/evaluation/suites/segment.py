"""Zero-shot segmentation: each pixel gets the class whose text is most similar to the image there.

    s_cn = <t_c, p_n>,   class(pixel) = argmax_c of s_c, scaled up to the pixels

t_c is the mean direction of the class's name in several templates, p_n the unit vector of a
position, through the projection of the image vector.

    IoU_c = |predicted c and is c| / |predicted c or is c|,      mIoU = mean over the classes that occur

Chance predicts the most common class everywhere. Pixels that are void, or of a class called
background, which no text describes, are not counted. Masks are aligned with the image as its pixels
were.

Sources: Zhou et al. 2022 (MaskCLIP), classes by position; Zheng et al. 2024 (DreamLIP), through the
projection.

Dimensions: N images, C classes, h x w positions, S side of the pixels.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.data.images import VOID
from diptych.data.sample import BadSample, Sample, Source
from diptych.data.templates import BANKS, checked
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._class_scores import class_vectors
from diptych.evaluation.suites._patches import laid_under
from diptych.evaluation.suites.dense import mask_of, renumbered
from diptych.models.dense import pixel_classes

card = {
    "title": "Zero-shot segmentation: mIoU of classes by their texts",
    "needs": ["images.main", "masks"],
    "abilities": ["preprocess", "represent", "embed_texts"],
}

GROUND = "background"
"""The class that has no meaningful name."""


def ready(
    model: Any,
    source: Source,
    *,
    mask: str | None = None,
    templates: Sequence[str] = BANKS["images"],
) -> None:
    """Raise InputError for a mask that the source lacks or that has no class names, and for bad
    templates."""
    checked(templates, "segment")
    mask_of(source, mask, "segment")


def segment(
    model: Any,
    source: Source,
    *,
    mask: str | None = None,
    templates: Sequence[str] = BANKS["images"],
    route: str = "tokens",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `miou` and `accuracy` of pixels, each class's IoU in `by_class`, and the chance
    values.

    `mask` is class, or the first whose numbers have class names; `route` is that of
    `Model.represent`. Also returned: `n` images, `classes`, `bad` samples by reason, and the
    protocol. Raises InputError for a model whose image tower has no positions.
    """
    ready(model, source, mask=mask, templates=templates)
    mask = mask_of(source, mask, "segment")
    own = source.schema()[f"masks.{mask}"].classes
    names = tuple(name for name in own if name != GROUND)
    steps = Steps(progress, len(source) + len(names) * len(templates))
    bad = Counter[str]()
    classes = class_vectors(model, names, templates, batch_size=batch_size, steps=steps)
    table = np.zeros((len(names), len(names)), np.int64)  # true class, predicted class
    count = 0

    def plane(sample: Sample) -> np.ndarray:
        if mask not in sample.masks:
            raise BadSample("no-mask", f"{sample.key} has no mask {mask!r}")
        numbers = renumbered(np.asarray(sample.masks[mask].decode()), own, names)
        return laid_under(numbers, model.preprocess, VOID)

    for pixels, planes in read_images(
        model, source, plane, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        found = pixel_classes(model, pixels, classes, batch_size, route=route)
        for predicted, truth in zip(found.numpy(), planes, strict=True):
            known = truth != VOID
            table += np.bincount(
                truth[known].astype(np.int64) * len(names) + predicted[known], minlength=table.size
            ).reshape(table.shape)
            count += 1
    if not table.sum():
        raise InputError(f"mask {mask!r} of {source.name!r} is void everywhere")
    by_class = ious_of(table)
    constant = np.zeros_like(table)
    constant[:, table.sum(1).argmax()] = table.sum(1)
    protocol = protocol_of(
        "segment",
        source,
        model,
        exact=exact,
        field=mask,
        classes=names,
        prompts=tuple(templates),
        options=() if route == "tokens" else (f"route={route}",),
        rule="each pixel the class of most cosine, bilinear; void and background left out; mIoU of classes that occur",
    )
    return {
        "n": count,
        "classes": len(names),
        "miou": float(np.mean(list(by_class.values()))),
        "accuracy": float(table.trace() / table.sum()),
        "chance_miou": float(np.mean(list(ious_of(constant).values()))),
        "chance_accuracy": float(table.sum(1).max() / table.sum()),
        "by_class": {names[number]: {"iou": iou} for number, iou in by_class.items()},
        "bad": dict(bad),
    } | describe(protocol, model)


def ious_of(table: np.ndarray) -> dict[int, float]:
    """Return the intersection over union of each class that occurs, from counts (C, C) of true and
    predicted classes.

    >>> ious_of(np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]]))
    {0: 0.5, 1: 0.6666666666666666}
    """
    union = table.sum(0) + table.sum(1) - np.diagonal(table)
    return {
        int(number): float(table[number, number] / union[number])
        for number in np.flatnonzero(union)
    }
