"""Dense probe: the class at each position of an image, predicted from frozen features there by a
linear classifier.

    IoU_c = |predicted c and is c| / |predicted c or is c|,      mIoU = mean over the classes that occur

A position's class is the most common one of its cell. The classifier is that of the linear probe:
logistic regression on standardised features, with C chosen on a held-out fifth of the images.
Chance predicts the most common class everywhere.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.data.masks import VOID
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._features import split
from diptych.evaluation.suites._patches import (
    MOST,
    cell_classes,
    laid_under,
    level_option,
    positions,
)
from diptych.linear import CS, classifier
from diptych.metrics import lab

card = {
    "title": "Dense probe: mIoU of the class at each position",
    "needs": ["images.main", "masks"],
    "abilities": ["preprocess", "represent"],
}


def ready(model: Any, source: Source, *, mask: str | None = None) -> None:
    """Raise InputError for a mask that the source lacks, or that has no class names."""
    mask_of(source, mask)


def dense(
    model: Any,
    source: Source,
    *,
    train: Source | str | None = None,
    mask: str | None = None,
    level: int | None = None,
    seeds: Sequence[int] = (0,),
    max_positions: int = MOST,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `miou` and `accuracy` of positions, each class's IoU in `by_class`, and the chance
    values.

    The probe is trained on at most `max_positions` positions of `train`, a source or its spec, and tested on
    all of `source`; without `train`, `source` is split by the first seed. `mask` is class, or the
    first whose numbers have class names; 255 in it is void. `level` is the feature map that is
    probed, counted from the finest one; by default the tokens are. Also returned: `n` test
    positions, `n_train`, `bad` samples by reason, and the protocol.
    """
    mask = mask_of(source, mask)
    halves = split(source, train, seeds[0])
    bad = Counter()
    classes = [
        part.schema()[f"masks.{mask_of(part, mask)}"].classes
        for part in (halves.train, halves.test)
    ]
    names = tuple(dict.fromkeys([*classes[1], *classes[0]]))
    if len(names) > VOID:
        raise InputError(
            f"mask {mask!r} of {source.name} and its training have {len(names)} classes together; at most {VOID} fit"
        )

    steps = Steps(progress, len(halves.train) + len(halves.test))
    found = []
    for part, own, count in zip(
        (halves.train, halves.test), classes, (max_positions, None), strict=True
    ):

        def plane(sample: Sample, own: Sequence[str] = own) -> np.ndarray:
            if mask not in sample.masks:
                raise BadSample("no-mask", f"{sample.key} has no mask {mask!r}")
            numbers = renumbered(np.asarray(sample.masks[mask].decode()), own, names)
            return laid_under(numbers, model.preprocess, VOID)

        x, y, owners = positions(
            model,
            part,
            plane,
            lambda plane, grid: cell_classes(plane, grid, VOID),
            bad,
            max_positions=count,
            seed=seeds[0],
            exact=exact,
            batch_size=batch_size,
            steps=steps,
            level=level,
        )
        known = y != VOID
        found.append((x[known], y[known].astype(int), owners[known]))
        if not known.any():
            raise InputError(f"mask {mask!r} of {part.name!r} is void everywhere")
    (x, y, owners), (test_x, test_y, _) = found
    results, by_class = segmentation(x, y, test_x, test_y, owners=owners, seed=seeds[0])
    protocol = protocol_of(
        "dense",
        source,
        model,
        exact=exact,
        field=mask,
        classes=names,
        rule="linear classifier of the cell's most common class; 255 is void; mean IoU of classes that occur",
        options=(
            *halves.options,
            *level_option(level),
            f"max_positions={max_positions}",
            f"seed={seeds[0]}",
        ),
    )
    named = {names[value]: {"iou": iou} for value, iou in by_class.items()}
    return (
        {"n": len(test_y), "n_train": len(y)}
        | results
        | {"by_class": named, "bad": dict(bad)}
        | describe(protocol, model)
    )


def segmentation(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    owners: np.ndarray | None = None,
    seed: int = 0,
    cs: Sequence[float] = CS,
) -> tuple[dict[str, float], dict[int, float]]:
    """Return `miou`, `accuracy`, `C` and chance of a linear classifier on positions (P, D) of
    classes (P,); and IoU by class.

    C is chosen on a fifth of the images, if `owners` (P,) gives the image of each position, else of
    the positions.

    >>> x = np.repeat(np.eye(2), 20, axis=0)
    >>> y = np.repeat([0, 3], 20)
    >>> segmentation(x, y, x, y)[0]["miou"]
    1.0
    """
    model, C = classifier(features, labels, owners=owners, seed=seed, cs=cs)
    predicted = model.predict(test_features)
    values, counts = np.unique(labels, return_counts=True)
    constant = np.full_like(test_labels, values[counts.argmax()])
    by_class = ious(test_labels, predicted)
    by_chance = ious(test_labels, constant)
    results = {
        "miou": float(np.mean(list(by_class.values()))),
        "accuracy": float((predicted == test_labels).mean()),
        "chance_miou": float(np.mean(list(by_chance.values()))),
        "chance_accuracy": float((constant == test_labels).mean()),
        "C": C,
    }
    return results, by_class


def ious(truth: np.ndarray, predicted: np.ndarray) -> dict[int, float]:
    """Return the intersection over union of each class that occurs in `truth` (P,) or `predicted`
    (P,).

    >>> ious(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    {0: 0.5, 1: 0.6666666666666666}
    """
    with lab("mIoU"):
        from sklearn.metrics import jaccard_score
    classes = np.union1d(truth, predicted)
    found = np.asarray(jaccard_score(truth, predicted, labels=classes, average=None))  # pyright: ignore
    return dict(zip(classes.tolist(), found.tolist(), strict=True))


def renumbered(plane: np.ndarray, own: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return a mask (H, W) with the numbers of the classes `own` replaced by those of `names`;
    `VOID` for others.

    >>> renumbered(np.array([[0, 1, 255]]), ("sea", "sky"), ("sky", "sand", "sea"))
    array([[  2,   0, 255]])
    """
    if plane.max(initial=0) < len(own) and own == names[: len(own)]:
        return plane
    table = np.full(max(len(own), int(plane.max(initial=0))) + 1, VOID, np.int64)
    table[: len(own)] = [names.index(name) if name in names else VOID for name in own]
    return table[plane]


def mask_of(source: Source, mask: str | None, suite: str = "dense") -> str:
    """Return the mask whose numbers are classes: the given one, or class, or the first with class
    names.

    Raises InputError for one without class names: its numbers may be those of objects, counted anew
    in each image.
    """
    fields = source.schema().items()
    masks = {
        name.removeprefix("masks."): field for name, field in fields if name.startswith("masks.")
    }
    named = [name for name, field in masks.items() if field.classes]
    if not masks:
        raise InputError(f"{suite} needs masks, which source {source.name!r} does not give")
    if mask is not None and mask not in masks:
        raise unknown(f"mask of source {source.name!r}", mask, masks)
    if mask is None and named:
        return "class" if "class" in named else named[0]
    if (chosen := mask or next(iter(masks))) not in named:
        hint = (
            f"choose {named[0]!r}, which has"
            if named
            else 'name them in each JSON, "mask_classes": {MASK: {NUMBER: NAME}}'
        )
        raise InputError(
            f"the mask {chosen!r} of {source.name} has numbers without class names, which may be those of "
            f"objects; {hint}"
        )
    return chosen
