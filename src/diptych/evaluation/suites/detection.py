"""Detection: average precision of the boxes of the named classes, and of the masks of their objects.

    AP_c(o) = mean over r = 0, .01, …, 1 of the largest precision at a recall of r or more
    AP50 = mean_c AP_c(.5),      AP = mean over o = .5, .55, …, .95 of mean_c AP_c(o)

Detections of a class are processed by falling score over all images. Each is assigned the box of
its image that it overlaps most, among those not yet assigned, and is a hit if the overlap (IoU) is
o or more. Masks are judged in the same way by the overlaps of their pixels. This is COCO's count,
without crowds (Lin et al. 2014). Chance is a detector that returns no boxes, and scores 0.

Dimensions: n detections and m objects of an image, H x W pixels.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from diptych.data.boxes import boxes_of, object_mask, shares, things
from diptych.data.images import size_of
from diptych.data.outlines import from_runs, to_runs
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._average_precision import (
    OVERLAPS,
    Judged,
    average_precisions,
    mask_iou,
)
from diptych.models.class_names import plainly
from diptych.models.two_stage.masks import pasted

card = {
    "title": "Detection: average precision of boxes and masks",
    "needs": ["images.main", "boxes"],
    "abilities": ["preprocess", "set_classes", "detect"],
}


def ready(
    model: Any,
    source: Source,
    *,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
    max_boxes: int | None = None,
) -> None:
    """Raise InputError for a model that crops images, since boxes are shares of the whole, and for a
    score, an overlap or a number of detections that is none."""
    for name, share in (("score_threshold", score_threshold), ("nms_threshold", nms_threshold)):
        if share is not None and not 0 <= share <= 1:
            raise InputError(f"{name} is {share:g}; it must be 0 to 1")
    if max_boxes is not None and max_boxes < 1:
        raise InputError(f"max_boxes is {max_boxes}; an image has at least one detection")
    if model.preprocess.resize != "squash":
        raise InputError(
            f"{model.name} crops or pads images, and boxes are shares of the whole; give it a "
            "preprocess with resize=squash"
        )


def detection(
    model: Any,
    source: Source,
    *,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
    max_boxes: int | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `ap50` and `ap`, means over the classes that have boxes, and `recall50`, the share of all
    boxes that are found; of a model that finds masks, on data with masks of objects, also `mask_ap50`,
    `mask_ap` and `mask_recall50`.

    `score_threshold`, `nms_threshold` and `max_boxes` are those of the model's `detect`, by default its
    own. The classes are those that the source names. Also returned: `n` images, `boxes`, the classes one
    by one, `bad` samples by reason, and the protocol. Raises InputError if no box has a name.
    """
    ready(
        model,
        source,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        max_boxes=max_boxes,
    )
    names = things(source)
    classes = source.schema()["boxes"].classes
    masked = getattr(model, "finds_masks", False) and "boxes.mask" in source.schema()
    number = {name: at for at, name in enumerate(names)}
    steps = Steps(progress, len(source))
    bad = Counter[str]()

    def reported(sample: Sample) -> tuple[Tensor, Tensor, _Masks | None]:
        """Return the boxes and classes of a sample, and the masks of the objects."""
        if "main" not in sample.images:
            raise BadSample("no-image", f"{sample.key} has no image 'main'")
        size = size_of(sample.images["main"])
        boxes, held = shares(sample, size, classes)
        numbers = torch.tensor([number[name] for name in held], dtype=torch.int64)
        if not masked:
            return torch.from_numpy(boxes), numbers, None
        own = boxes_of(sample, size, classes)
        runs = [to_runs(object_mask(box, size)) for box in own]
        return torch.from_numpy(boxes), numbers, _Masks(size, runs)

    before = model.classes
    model.set_classes(names)
    by_box: list[Judged] = []
    by_mask: list[Judged] = []
    given = {
        "score_threshold": score_threshold,
        "nms_threshold": nms_threshold,
        "max_boxes": max_boxes,
    }
    rule = {name: value for name, value in given.items() if value is not None}
    options: dict[str, Any] = {**rule, "masks": True} if masked else rule
    try:
        for pixels, facts in read_images(
            model, source, reported, bad, exact=exact, batch_size=batch_size, steps=steps
        ):
            found = model.detect(pixels, batch_size=batch_size, **options)
            for each, (boxes, wanted, masks) in zip(found, facts, strict=True):
                overlaps = box_iou(each.boxes, boxes)
                by_box.append(Judged(each.classes, each.scores, overlaps, wanted))
                if masks is not None:
                    own = pasted(each.masks, each.boxes, masks.size)
                    overlaps = mask_iou(own, masks.planes())
                    by_mask.append(Judged(each.classes, each.scores, overlaps, wanted))
    finally:
        if before:
            model.set_classes(before)
    measured = _measured(by_box, names)
    if not measured["by_class"]:
        raise InputError(
            f"no box of source {source.name!r} lies in its image; there is nothing to find"
        )
    of_masks = _measured(by_mask, names) if masked else {}
    by_class = {
        name: row | {f"mask_{key}": value for key, value in of_masks["by_class"][name].items()}
        if masked
        else row
        for name, row in measured["by_class"].items()
    }
    protocol = protocol_of(
        "detection",
        source,
        model,
        exact=exact,
        field="boxes",
        classes=names,
        options=tuple(f"{name}={value}" for name, value in rule.items()),
        rule=f"AP at IoU {OVERLAPS[0]:g}, 101 recalls; mean over classes with boxes",
    )
    trained = getattr(model, "trained_classes", ())
    return {
        **{name: value for name, value in measured.items() if name != "by_class"},
        **_by_training(measured["by_class"], trained),
        **{f"mask_{name}": value for name, value in of_masks.items() if name != "by_class"},
        **{
            f"mask_{name}": value
            for name, value in _by_training(of_masks.get("by_class", {}), trained).items()
        },
        "chance_ap50": 0.0,
        "n": len(by_box),
        "boxes": sum(len(each.wanted) for each in by_box),
        "classes": len(names),
        "by_class": by_class,
        "bad": dict(bad),
    } | describe(protocol, model)


@dataclass(frozen=True)
class _Masks:
    """The masks of an image's objects as runs, and its size (W, H)."""

    size: tuple[int, int]
    runs: Sequence[np.ndarray]

    def planes(self) -> Tensor:
        """The masks (m, H, W) bool."""
        width, height = self.size
        found = np.zeros((len(self.runs), height, width), bool)
        for at, runs in enumerate(self.runs):
            found[at] = from_runs(runs, (height, width))
        return torch.from_numpy(found)


def _measured(images: Sequence[Judged], names: Sequence[str]) -> dict[str, Any]:
    """The measures of boxes, or of masks, over all classes and by class."""
    precisions, recalls = average_precisions(images)
    if not precisions:
        return {"by_class": {}}
    by_class = {
        names[at]: {"ap50": float(row[0]), "ap": float(row.mean())}
        for at, row in precisions.items()
    }
    means = {
        name: float(np.mean([row[name] for row in by_class.values()])) for name in ("ap50", "ap")
    }
    return {**means, "recall50": float(recalls[0]), "by_class": by_class}


def _by_training(
    by_class: Mapping[str, Mapping[str, float]], trained: Sequence[str]
) -> dict[str, float]:
    """The means over the classes that boxes of training had, and over the others, if there are both."""
    base = {plainly(name) for name in trained}
    parts: dict[str, list[Mapping[str, float]]] = {"base": [], "novel": []}
    for name, row in by_class.items():
        parts["base" if plainly(name) in base else "novel"].append(row)
    if not all(parts.values()):
        return {}
    return {
        f"{measure}_{part}": float(np.mean([row[measure] for row in rows]))
        for measure in ("ap50", "ap")
        for part, rows in parts.items()
    }
