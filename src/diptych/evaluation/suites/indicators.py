"""Indicators: real-valued labels of places, predicted by a small network on frozen embeddings, or by a
model that was trained to (`by="predict"`).

    r2 = 1 - Σ (y - y')² / Σ (y - mean y)²,    mape = mean |y - y'| / |y|

With `group`, a label such as the block of a city, samples of one group are all learnt from or all
judged: neighbours are alike, so that a random split tells how well a model remembers them. Chance
predicts the mean of what was learnt from.

Source: Yan et al. 2024 (UrbanCLIP); the network is `_mlp_probe`.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from diptych.data.sample import Sample, Source, labels_of, real_label
from diptych.data.wrap import Wrapped
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._features import Split, frozen, split
from diptych.evaluation.suites._mlp_probe import mlp
from diptych.evaluation.suites._ridge import errors
from diptych.linear import hold_out
from diptych.methods.abilities import require

card = {
    "title": "Indicators: real-valued labels by a small network on frozen embeddings",
    "needs": ["images.main", "labels"],
    "abilities": ["preprocess"],  # and embed_images or predict, depending on `by`
}

By = Literal["probe", "predict"]

FEWEST = 10
"""The number of samples that an indicator needs in training and in test."""


def ready(
    model: Any,
    source: Source,
    *,
    labels: Sequence[str] | None = None,
    group: str | None = None,
    by: By = "probe",
) -> None:
    """Raise InputError for labels that are not there, or have no real values, and for a model that does
    not do what is asked."""
    if by not in get_args(By):
        raise unknown("way to predict indicators", by, get_args(By))
    require(model, "predict" if by == "predict" else "embed_images", "a prediction of indicators")
    if by == "predict" and group is not None:
        raise InputError("a trained model learns from no group; leave out the group")
    _labels(source, labels)
    if group is not None and f"labels.{group}" not in source.schema():
        raise unknown(f"label of source {source.name!r}", group, _there(source))


def indicators(
    model: Any,
    source: Source,
    *,
    train: Source | str | None = None,
    labels: Sequence[str] | None = None,
    group: str | None = None,
    seeds: Sequence[int] = (0,),
    by: By = "probe",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `mean_r2`, and `by_indicator` r2, rmse, mae and mape beside those of chance, means over
    the seeds.

    The network learns from `train`, a source or its spec, and is judged on `source`; without `train`,
    from four fifths of `source`, with `group` from those of whole groups, by the first seed. `labels`
    are all with real values, or those named. Samples without a value are left out. With `by="predict"`
    nothing is learnt: the model's own predictions of all of `source` are judged. Also returned: `n`,
    `n_train`, `left_out` labels by reason, `bad` samples by reason, and the protocol.
    """
    ready(model, source, labels=labels, group=group, by=by)
    names = _labels(source, labels)
    if by == "predict":
        return _own(model, source, names, batch_size=batch_size, exact=exact, progress=progress)
    halves = _halves(source, train, group, seeds[0])
    bad = Counter()

    def values(sample: Sample) -> list[float]:
        own = [] if group is None else [float(sample.labels.get(group, -1))]
        return [*(real_label(sample, name) for name in names), *own]

    steps = Steps(progress, len(halves.train) + len(halves.test))
    how: dict[str, Any] = {"exact": exact, "batch_size": batch_size, "steps": steps}
    read = partial(frozen, model, features="embedding", **how)
    (x, y), (test_x, test_y) = (read(part, values, bad) for part in (halves.train, halves.test))
    owners = None if group is None else y[:, -1]
    found: dict[str, dict[str, float]] = {}
    left_out = {}
    for column, name in enumerate(names):
        known = np.isfinite(y[:, column])
        judged = np.isfinite(test_y[:, column])
        if reason := _unfit(y[known, column], test_y[judged, column]):
            left_out[name] = reason
            continue
        found[name] = _predicted(
            (x[known], y[known, column]),
            (test_x[judged], test_y[judged, column]),
            None if owners is None else owners[known],
            seeds,
        )
    if not found:
        raise InputError(f"no label of {source.name!r} can be predicted: {left_out}")
    protocol = protocol_of(
        "indicators",
        source,
        model,
        exact=exact,
        field=",".join(found),
        rule="a network of 256 hidden units on unit embeddings, its epoch by a fifth kept aside",
        options=(
            *halves.options,
            f"seeds={','.join(map(str, seeds))}",
            *([] if group is None else [f"group={group}"]),
        ),
    )
    means = {
        f"{kind}mean_r2": float(np.mean([row[f"{kind}r2"] for row in found.values()]))
        for kind in ("", "chance_")
    }
    return (
        {"n": len(test_y), "n_train": len(y), **means}
        | {"by_indicator": found, "left_out": left_out, "bad": dict(bad)}
        | describe(protocol, model)
    )


def _own(
    model: Any,
    source: Source,
    names: Sequence[str],
    *,
    batch_size: int,
    exact: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """The errors of the model's own predictions."""
    bad = Counter()
    given: list[list[float]] = []
    parts: list[dict[str, Any]] = []

    def values(sample: Sample) -> list[float]:
        return [real_label(sample, name) for name in names]

    steps = Steps(progress, len(source))
    for pixels, facts in read_images(
        model, source, values, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        parts.append(model.predict(pixels, batch_size=batch_size))
        given += facts
    if lacking := [name for name in names if name not in parts[0]]:
        raise unknown(f"number that {model.name} predicts", lacking[0], parts[0])
    y = np.asarray(given)
    found = {}
    for column, name in enumerate(names):
        known = np.isfinite(y[:, column])
        predicted = np.concatenate([np.asarray(part[name], np.float64) for part in parts])
        if known.any():
            found[name] = {"n": int(known.sum()), **report(y[known, column], predicted[known])}
    if not found:
        raise InputError(f"no sample of {source.name!r} has a value of {', '.join(names)}")
    protocol = protocol_of(
        "indicators",
        source,
        model,
        exact=exact,
        field=",".join(found),
        rule="the model's own predictions",
    )
    return (
        {"n": len(y), "mean_r2": float(np.mean([row["r2"] for row in found.values()]))}
        | {"chance_mean_r2": 0.0, "by_indicator": found, "bad": dict(bad)}
        | describe(protocol, model)
    )


def _halves(source: Source, train: Source | str | None, group: str | None, seed: int) -> Split:
    if train is not None or group is None:
        return split(source, train, seed)
    learnt, judged = hold_out(len(source), seed, np.asarray(labels_of(source, group)))
    return Split(
        Wrapped(source, learnt),
        Wrapped(source, judged),
        (f"train=four fifths of the groups of {group} by seed {seed}",),
    )


def _predicted(
    learnt: tuple[np.ndarray, np.ndarray],
    judged: tuple[np.ndarray, np.ndarray],
    owners: np.ndarray | None,
    seeds: Sequence[int],
) -> dict[str, float]:
    """The errors of networks of all seeds, and of the mean."""
    x, y = learnt
    test_x, test_y = judged
    rows = []
    for seed in seeds:
        fit, aside = hold_out(len(y), seed, owners)
        network = mlp(x[fit], y[fit], x[aside], y[aside], seed=seed)
        rows.append(report(test_y, network.predict(test_x)))
    chance = report(test_y, np.full(len(test_y), y.mean()))
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {
        "n": len(test_y),
        **means,
        **{f"chance_{name}": chance[name] for name in ("r2", "rmse")},
    }


def report(targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """r2, rmse and mae of predictions (N,), and mape over the targets that are not 0.

    >>> found = report(np.array([1.0, 2, 3, 4]), np.array([1.1, 1.9, 3.2, 3.6]))
    >>> round(found["r2"], 3), round(found["rmse"], 6), round(found["mape"], 4)
    (0.956, 0.234521, 0.0792)
    """
    found = errors(targets, predicted)
    some = targets != 0
    shares = np.abs(targets[some] - predicted[some]) / np.abs(targets[some])
    return found | {"mape": float(shares.mean()) if some.any() else 0.0}


def _unfit(values: np.ndarray, test_values: np.ndarray) -> str:
    """Return why a label cannot be predicted, or ""."""
    if min(len(values), len(test_values)) < FEWEST:
        return f"fewer than {FEWEST} samples have it"
    if np.ptp(values) == 0:
        return "all samples have the same value"
    return ""


def _there(source: Source) -> list[str]:
    return [name.removeprefix("labels.") for name in source.schema() if name.startswith("labels.")]


def _labels(source: Source, labels: Sequence[str] | None) -> list[str]:
    there = _there(source)
    for name in labels or ():
        if name not in there:
            raise unknown(f"label of source {source.name!r}", name, there)
    real = [name for name in there if source.schema()[f"labels.{name}"].kind == "float"]
    if not (found := list(labels or real)):
        raise InputError(
            f"source {source.name!r} has no label with real values; name labels to predict with --labels"
        )
    return found
