"""Zero-shot segmentation: each pixel gets the class whose text is most similar to the image there.

    s_cn = <t_c, p_n>,   class(pixel) = argmax_c of s_c, scaled up to the pixels

t_c is the mean direction of the class's name in several templates, p_n the unit vector of a
position, through the projection of the image vector.

    IoU_c = |predicted c and is c| / |predicted c or is c|,      mIoU = mean over the classes that occur

A model that was trained to segment has a head of its own, which names the pixels; its classes are
those of its training. One whose tower groups patches into segments names these by texts.

Chance predicts the most common class everywhere. Pixels that are void are not counted, nor those of a
class called background, which no text describes; but they are where a head has learnt it, or a model
of segments has a rule for what fits no class. Masks are aligned with the image as its pixels were.

Sources: Zhou et al. 2022 (MaskCLIP), classes by position; Zheng et al. 2024 (DreamLIP), through the
projection.

Dimensions: N images, C classes, h x w positions, S side of the pixels.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.masks import VOID
from diptych.data.sample import BadSample, Sample, Source
from diptych.data.templates import BANKS, checked
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._class_scores import class_vectors
from diptych.evaluation.suites._patches import laid_under
from diptych.evaluation.suites.dense import mask_of, renumbered
from diptych.models.dense import GROUND, background_below, pixel_classes

card = {
    "title": "Zero-shot segmentation: mIoU of classes by their texts",
    "needs": ["images.main", "masks"],
    "abilities": ["preprocess", "represent", "embed_texts"],
}

_RULES = {
    "texts": "each pixel the class of most cosine, bilinear; void and background left out; mIoU of classes that occur",
    "head": "each pixel the class of the highest logit, bilinear; void left out; mIoU of classes that occur",
    "groups": "each pixel the class of its segment, or background; void left out; mIoU of classes that occur",
}
"""How pixels are named, by the model's `segments_by`."""


def ready(
    model: Any,
    source: Source,
    *,
    mask: str | None = None,
    templates: Sequence[str] = BANKS["images"],
) -> None:
    """Raise InputError for a mask that the source lacks or that has no class names, for bad
    templates, and for classes that a model's own head does not know."""
    checked(templates, "segment")
    chosen = mask_of(source, mask, "segment")
    if not has_head(model):
        return
    if tuple(templates) != tuple(BANKS["images"]):
        raise InputError(
            f"{model.name} was trained with prompts of its own; leave the templates out"
        )
    for name in _named(model, source, chosen):
        if name not in model.delivered.classes:
            raise unknown(f"class that {model.name} was trained on", name, model.delivered.classes)


def has_head(model: Any) -> bool:
    """Whether a model names pixels by a head that was trained to, and not by texts."""
    return _way(model) == "head"


def _way(model: Any) -> str:
    """How a model names pixels: by texts at each position, by a head, or by groups of patches."""
    return getattr(model, "segments_by", "texts")


def _named(model: Any, source: Source, mask: str) -> tuple[str, ...]:
    """The classes of a mask, for a model that knows them by texts alone without the background."""
    own = source.schema()[f"masks.{mask}"].classes
    return own if _way(model) != "texts" else tuple(name for name in own if name != GROUND)


@contextmanager
def _pixels_named(
    model: Any,
    names: Sequence[str],
    templates: Sequence[str],
    route: str,
    batch_size: int,
    steps: Steps,
) -> Iterator[Callable[[Tensor], Tensor]]:
    """What gives the numbers (N, S, S) of `names` at the pixels of images (N, 3, S, S). A head has
    its former classes again afterwards, since it may be in training."""
    if not has_head(model):
        classes = class_vectors(model, names, templates, batch_size=batch_size, steps=steps)
        how: dict[str, Any] = {"classes": classes, "batch_size": batch_size, "route": route}
        if _way(model) == "groups":
            yield partial(model.segment_by, names=names, **how)
        else:
            yield partial(pixel_classes, model, **how)
        return
    before = model.classes
    model.set_classes(names)
    try:
        yield partial(model.segment, batch_size=batch_size, route=route)
    finally:
        model.set_classes(before)


def segment(
    model: Any,
    source: Source,
    *,
    mask: str | None = None,
    templates: Sequence[str] = BANKS["images"],
    route: str = "tokens",
    background: float | str | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `miou` and `accuracy` of pixels, each class's IoU in `by_class`, and the chance
    values.

    `mask` is class, or the first whose numbers have class names; `route` is that of
    `Model.represent`. `background` is the score below which a model of segments finds the background,
    by default its own. Also returned: `n` images, `classes`, `bad` samples by reason, and the
    protocol. Raises InputError for a model whose image tower has no positions.
    """
    ready(model, source, mask=mask, templates=templates)
    mask = mask_of(source, mask, "segment")
    own = source.schema()[f"masks.{mask}"].classes
    names = _named(model, source, mask)
    learned = has_head(model)
    steps = Steps(progress, len(source) + (0 if learned else len(names) * len(templates)))
    bad = Counter[str]()
    table = np.zeros((len(names), len(names)), np.int64)  # true class, predicted class
    count = 0

    def plane(sample: Sample) -> np.ndarray:
        if mask not in sample.masks:
            raise BadSample("no-mask", f"{sample.key} has no mask {mask!r}")
        numbers = renumbered(np.asarray(sample.masks[mask].decode()), own, names)
        return laid_under(numbers, model.preprocess, VOID)

    settings: dict[str, Any] = {"batch_size": batch_size, "steps": steps}
    with (
        background_below(model, background),
        _pixels_named(model, names, templates, route, **settings) as named,
    ):
        options = (
            *(() if route == "tokens" else (f"route={route}",)),
            *getattr(model, "segment_options", ()),
        )
        for pixels, planes in read_images(model, source, plane, bad, exact=exact, **settings):
            for predicted, truth in zip(named(pixels).numpy(), planes, strict=True):
                known = truth != VOID
                pairs = truth[known].astype(np.int64) * len(names) + predicted[known]
                table += np.bincount(pairs, minlength=table.size).reshape(table.shape)
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
        prompts=() if learned else tuple(templates),
        options=options,
        rule=_RULES[_way(model)],
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
