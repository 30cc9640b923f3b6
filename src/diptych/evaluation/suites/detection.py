"""Detection: average precision of the boxes of the named classes.

    AP_c = mean over r = 0, .01, …, 1 of the largest precision at a recall of r or more,      AP50 = mean_c AP_c

Detections of a class are processed by falling score over all images. Each is assigned the box of
its image that it overlaps most, among those not yet assigned, and is a hit if the overlap (IoU) is
.5 or more. This is COCO's count, at one overlap and without crowds (Lin et al. 2014). Chance is a
detector that returns no boxes, and scores 0.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from diptych.data.boxes import shares, things
from diptych.data.images import size_of
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.models.class_names import plainly

card = {
    "title": "Detection: average precision of boxes",
    "needs": ["images.main", "boxes"],
    "abilities": ["preprocess", "set_classes", "detect"],
}

OVERLAP = 0.5


def ready(model: Any, source: Source) -> None:
    """Raise InputError for a model that crops images, since boxes are shares of the whole."""
    if model.preprocess.resize != "squash":
        raise InputError(
            f"{model.name} crops or pads images, and boxes are shares of the whole; give it a "
            "preprocess with resize=squash"
        )


def detection(
    model: Any,
    source: Source,
    *,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `ap50`, the mean over the classes that have boxes, and `recall50`, the share of all
    boxes that are found.

    The classes are those that the source names. Also returned: `n` images, `boxes`, the classes one
    by one, `bad` samples by reason, and the protocol. Raises InputError if no box has a name.
    """
    ready(model, source)
    names = things(source)
    classes = source.schema()["boxes"].classes
    number = {name: at for at, name in enumerate(names)}
    steps = Steps(progress, len(source))
    bad = Counter[str]()

    def reported(sample: Sample) -> tuple[Tensor, Tensor]:
        """Return the boxes and classes of a sample."""
        if "main" not in sample.images:
            raise BadSample("no-image", f"{sample.key} has no image 'main'")
        boxes, held = shares(sample, size_of(sample.images["main"]), classes)
        return torch.from_numpy(boxes), torch.tensor(
            [number[name] for name in held], dtype=torch.int64
        )

    before = model.classes
    model.set_classes(names)
    truths = []
    found = []
    try:
        for pixels, facts in read_images(
            model, source, reported, bad, exact=exact, batch_size=batch_size, steps=steps
        ):
            found += [
                (each.boxes, each.classes, each.scores)
                for each in model.detect(pixels, batch_size=batch_size)
            ]
            truths += facts
    finally:
        if before:
            model.set_classes(before)
    by_class, recall = average_precisions(found, truths, len(names))
    if not by_class:
        raise InputError(
            f"no box of source {source.name!r} lies in its image; there is nothing to find"
        )
    protocol = protocol_of(
        "detection",
        source,
        model,
        exact=exact,
        field="boxes",
        classes=names,
        rule=f"AP at IoU {OVERLAP:g}, 101 recalls; mean over classes with boxes",
    )
    return {
        "ap50": float(np.mean(list(by_class.values()))),
        **_by_training(by_class, names, getattr(model, "trained_classes", ())),
        "recall50": recall,
        "chance_ap50": 0.0,
        "n": len(truths),
        "boxes": sum(len(boxes) for boxes, _ in truths),
        "classes": len(names),
        "by_class": {names[at]: {"ap50": value} for at, value in by_class.items()},
        "bad": dict(bad),
    } | describe(protocol, model)


def _by_training(
    by_class: Mapping[int, float], names: Sequence[str], trained: Sequence[str]
) -> dict[str, float]:
    """The means over the classes that boxes of training had, and over the others, if there are both."""
    base = {plainly(name) for name in trained}
    parts: dict[str, list[float]] = {"ap50_base": [], "ap50_novel": []}
    for at, value in by_class.items():
        parts["ap50_base" if plainly(names[at]) in base else "ap50_novel"].append(value)
    if not all(parts.values()):
        return {}
    return {name: float(np.mean(values)) for name, values in parts.items()}


def average_precisions(
    found: Sequence[tuple[Tensor, Tensor, Tensor]],
    truths: Sequence[tuple[Tensor, Tensor]],
    classes: int,
) -> tuple[dict[int, float], float]:
    """Return the average precision of each class that has boxes, and the share of all boxes that
    are found.

    For each image `found` has boxes (n, 4), classes (n,) and scores (n,), `truths` boxes and
    classes.
    """
    precisions = {}
    taken = 0
    total = 0
    for at in range(classes):
        scores = []
        hits = []
        count = 0
        for (boxes, numbers, likely), (wanted, right) in zip(found, truths, strict=True):
            mine = numbers == at
            target = wanted[right == at]
            count += len(target)
            scores.append(likely[mine])
            hits.append(matched(boxes[mine], likely[mine], target))
        if count:
            hit = torch.cat(hits).numpy()
            precisions[at] = average_precision(torch.cat(scores).numpy(), hit, count)
            taken = taken + int(hit.sum())
            total = total + count
    return precisions, taken / max(total, 1)


def matched(boxes: Tensor, scores: Tensor, wanted: Tensor, overlap: float = OVERLAP) -> Tensor:
    """Return which boxes (n, 4) of one class in one image are hits: the highest score chooses first
    among the wanted (m, 4)."""
    hits = torch.zeros(len(boxes), dtype=torch.bool)
    if not len(boxes) or not len(wanted):
        return hits
    iou = box_iou(boxes, wanted)
    free = torch.ones(len(wanted), dtype=torch.bool)
    for at in scores.argsort(descending=True, stable=True).tolist():
        best = int(iou[at].masked_fill(~free, -1).argmax())
        if free[best] and iou[at, best] >= overlap:
            hits[at] = True
            free[best] = False
    return hits


def average_precision(scores: np.ndarray, hits: np.ndarray, count: int) -> float:
    """Return COCO's average precision of detections (n,), hits or not, for `count` boxes. Of equal
    scores, misses come first.

    >>> round(average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2), 4)
    0.835
    """
    order = np.lexsort((hits, -scores))
    right = hits[order].cumsum()
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[
        ::-1
    ]  # the largest at this recall or a higher one
    place = np.searchsorted(right / count, np.linspace(0, 1, 101) - 1e-12, side="left")
    return float(np.append(precision, 0.0)[np.minimum(place, len(precision))].mean())
