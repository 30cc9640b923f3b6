"""The labels that images are classified and grouped by, and accuracy by halves of the classes and by
groups."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from diptych.data.sample import Field, Sample, Source
from diptych.data.sources.subset import novel_half
from diptych.errors import InputError, unknown
from diptych.metrics import Array, harmonic_mean, ranks

Novel = Literal["half"] | Sequence[str]
"""Names of the novel classes, or "half": the later half of the classes in the order of their
numbers."""


def base_and_novel(
    images: Array, classes: Array, labels: np.ndarray, novel: np.ndarray
) -> dict[str, float]:
    """Return the accuracy among the base classes alone, among the novel ones alone, and the
    harmonic mean of the two.

    images (N, E), classes (C, E), labels (N,), novel (C,) bool. Raises InputError if a half has no
    images.

    >>> classes, novel = np.eye(4), np.array([False, False, True, True])
    >>> base_and_novel(classes[[0, 1, 3]], classes, np.array([0, 1, 2]), novel)["harmonic"]
    0.0
    """
    found: dict[str, float] = {}
    for name, half in (("base", np.flatnonzero(~novel)), ("novel", np.flatnonzero(novel))):
        mine = np.flatnonzero(np.isin(labels, half))
        if not len(mine):
            raise InputError(f"no image is of a {name} class; choose other novel classes")
        inside = np.searchsorted(half, labels[mine])
        found[f"{name}_top1"] = float((ranks(images[mine], classes[half], inside) <= 1).mean())
        found[f"chance_{name}_top1"] = 1 / len(half)
    found["harmonic"] = harmonic_mean(found["base_top1"], found["novel_top1"])
    found["chance_harmonic"] = harmonic_mean(found["chance_base_top1"], found["chance_novel_top1"])
    return found


def group_accuracy(
    hits: np.ndarray, groups: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return `top1` and `n` of each group that has samples: hits (N,), groups (N,) with -1 for
    samples without a group.

    >>> group_accuracy(np.array([1, 0, 1]), np.array([0, 0, 1]), ("noto", "twemoji"))["noto"]
    {'top1': 0.5, 'n': 2}
    """
    found = {}
    for value in np.unique(groups[groups >= 0]).tolist():
        mine = np.asarray(hits)[groups == value]
        found[names[value] if names else str(value)] = {
            "top1": float(mine.mean()),
            "n": int(mine.size),
        }
    return found


def worst(by_group: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the group with the lowest accuracy, by name and number, and the mean over groups.
    Raises InputError if no sample has a group."""
    if not by_group:
        raise InputError("no image has the label that says its group; choose another with group=")
    name = min(by_group, key=lambda each: by_group[each]["top1"])
    return {
        "worst_group": name,
        "worst_group_top1": by_group[name]["top1"],
        "macro_group_top1": float(np.mean([each["top1"] for each in by_group.values()])),
    }


def named_label(suite: str, source: Source, label: str | None) -> str:
    """Return the label to predict, which must have class names."""
    named = {
        name.removeprefix("labels."): field
        for name, field in source.schema().items()
        if name.startswith("labels.") and field.classes
    }
    if label is None:
        if not named:
            raise InputError(
                f"{suite} needs a label with class names, which source {source.name!r} does not give"
            )
        return "class" if "class" in named else next(iter(named))
    if label not in named:
        raise unknown(f"label with class names of source {source.name!r}", label, named)
    return label


def group_field(source: Source, group: str) -> Field:
    """Return the field of the label that groups the samples."""
    labels = {
        name.removeprefix("labels."): field
        for name, field in source.schema().items()
        if name.startswith("labels.") and field.kind == "int"
    }
    if group not in labels:
        raise unknown(f"label of source {source.name!r} for groups", group, labels)
    return labels[group]


def group_of(sample: Sample, group: str | None) -> int:
    """Return the group of a sample, -1 if it has none."""
    return -1 if group is None else int(sample.labels.get(group, -1))


def novel_classes(names: Sequence[str], novel: Novel) -> np.ndarray:
    """Return which classes are novel (C,) bool. "half": all but the first ceil(C / 2)."""
    if novel == "half":
        chosen = novel_half(len(names))
    else:
        asked = [novel] if isinstance(novel, str) else list(novel)
        for name in asked:
            if name not in names:
                raise unknown("novel class", name, names)
        chosen = np.isin(names, asked)
    if chosen.all() or not chosen.any():
        raise InputError(
            f"{int(chosen.sum())} of {len(names)} classes are novel; some must be, and some not"
        )
    return chosen
