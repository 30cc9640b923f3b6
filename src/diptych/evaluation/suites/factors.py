"""Factors: a linear probe of frozen features of images or texts for each label of the schema, in one table.

A label of integers is probed by logistic regression (`top1`), one of floats by ridge regression
(`r2`); see `probe` and `regression`. Labels most of whose test values do not occur in training,
such as a unique number for each image, are left out and reported.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from diptych.data.sample import Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._features import Features, features_ready, frozen, split
from diptych.evaluation.suites._ridge import ridge
from diptych.evaluation.suites.probe import linear
from diptych.evaluation.suites.retrieval import role_of

card = {
    "title": "Factors: a linear probe for each label",
    "needs": ["labels"],  # and images or texts, depending on `features`
    "abilities": [],  # embed_images, represent or embed_texts, depending on `features`
}

FEWEST = 5
"""The number of samples that a label needs in training and in test."""


def ready(
    model: Any,
    source: Source,
    *,
    labels: Sequence[str] | None = None,
    features: Features = "embedding",
    role: str | None = None,
) -> None:
    """Raise InputError for labels and features that do not fit."""
    features_ready(model, source, features, role)
    _labels(source, labels)


def factors(
    model: Any,
    source: Source,
    *,
    train: Source | str | None = None,
    labels: Sequence[str] | None = None,
    features: Features = "embedding",
    role: str | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `by_factor`: for each label `top1` or `r2` of a linear probe beside chance; and the
    means over labels.

    The probes are trained on `train`, a source or its spec, and tested on `source`; without
    `train`, `source` is split by the first seed. `labels` are all, or those named. `features` and
    `role` are those of a probe. Also returned:
    `n`, `n_train`, `left_out` labels by reason, `bad` samples by reason, and the protocol.
    """
    ready(model, source, labels=labels, features=features, role=role)
    names = _labels(source, labels)
    halves = split(source, train, seeds[0])
    bad = Counter()

    def values(sample: Sample) -> list[float]:
        return [float(sample.labels.get(name, np.nan)) for name in names]

    steps = Steps(progress, len(halves.train) + len(halves.test))
    how: dict[str, Any] = {"exact": exact, "batch_size": batch_size, "steps": steps}
    read = partial(frozen, model, features=features, role=role, **how)
    (x, y), (test_x, test_y) = (read(part, values, bad) for part in (halves.train, halves.test))
    by_factor = {}
    left_out = {}
    for column, name in enumerate(names):
        whole = source.schema()[f"labels.{name}"].kind == "int"
        mine = []
        for vectors, numbers in ((x, y[:, column]), (test_x, test_y[:, column])):
            known = np.isfinite(numbers) & ((numbers >= 0) | (not whole))
            mine += [vectors[known], numbers[known]]
        reason = _unfit(mine[1], mine[3], whole)
        if reason:
            left_out[name] = reason
        else:
            by_factor[name] = _probed(mine, whole, seeds[0])
    if not by_factor:
        raise InputError(f"no label of {source.name!r} can be probed: {left_out}")
    results: dict[str, Any] = {"n": len(test_y), "n_train": len(y)}
    for measure in ("top1", "chance_top1", "r2", "chance_r2"):
        found = [row[measure] for row in by_factor.values() if measure in row]
        if found:
            kind, _, rest = measure.rpartition("_")
            results[f"{kind}_mean_{rest}" if kind else f"mean_{rest}"] = float(np.mean(found))
    options = [*halves.options, f"features={features}", f"seed={seeds[0]}"]
    if features == "text":
        options.append(f"role={role_of('a probe of texts', source, role)}")
    protocol = protocol_of(
        "factors",
        source,
        model,
        exact=exact,
        field=",".join(by_factor),
        rule="standardised features, logistic or ridge regression, strength by a fifth kept aside; ties lose",
        options=tuple(options),
    )
    return (
        results
        | {"by_factor": by_factor, "left_out": left_out, "bad": dict(bad)}
        | describe(protocol, model)
    )


def _probed(mine: Sequence[np.ndarray], whole: bool, seed: int) -> dict[str, float]:
    x, y, test_x, test_y = mine
    if not whole:
        found = ridge(x, y, test_x, test_y, seed=seed)
        return {
            "n": len(test_y),
            **{name: found[name] for name in ("r2", "chance_r2", "rmse", "chance_rmse")},
        }
    found = linear(x, y.astype(int), test_x, test_y.astype(int), seed=seed)
    return {
        "n": len(test_y),
        "values": len(np.unique(y)),
        **{name: found[name] for name in ("top1", "chance_top1", "mean_per_class")},
    }


def _unfit(values: np.ndarray, test_values: np.ndarray, whole: bool) -> str:
    """Return why a label cannot be probed, or ""."""
    if min(len(values), len(test_values)) < FEWEST:
        return f"fewer than {FEWEST} samples have it"
    if np.ptp(values) == 0:
        return "all samples have the same value"
    if whole and np.isin(test_values, values).mean() < 0.5:
        return "most values do not recur"
    return ""


def _labels(source: Source, labels: Sequence[str] | None) -> list[str]:
    there = [name.removeprefix("labels.") for name in source.schema() if name.startswith("labels.")]
    for name in labels or ():
        if name not in there:
            raise unknown(f"label of source {source.name!r}", name, there)
    return list(labels or there)
