"""Probes of frozen features of images or texts: linear, few-shot, and nearest neighbours.

    linear     multinomial logistic regression on standardised features; C is chosen on a held-out fifth of the
               samples, then it is fitted on all. Or a layer fitted by SGD (`layer`), its epoch chosen likewise
    pooler     an attentional pooler of one query and a softmax layer on the tokens of the image tower, in place of
               the linear probe (`_pooler_probe`)
    few-shot   the same on `shots` samples a class, sampled for each seed; C is chosen on min(shots, 4) others of it
    kNN        the most common class among the k nearest by cosine

Ties count as wrong: a sample whose class shares the first place is no hit. Chance is always
predicting the most common class.

Sources: Radford et al. 2021 (CLIP), appendix A.3 (linear); Zhou et al. 2022 (CoOp), the few-shot
protocol.

Dimensions: N samples, D width, C classes.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.nn.functional import normalize

from diptych.data.sample import Sample, Source, labels_of
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, label_of
from diptych.evaluation.protocol import data_of, describe, protocol_of, split_of
from diptych.evaluation.suites._accuracy import hit_rates, report
from diptych.evaluation.suites._features import (
    Features,
    features_ready,
    frozen,
    frozen_tokens,
    opened,
    split,
)
from diptych.evaluation.suites._pooler_probe import pooler
from diptych.evaluation.suites._sgd_probe import layer
from diptych.evaluation.suites.retrieval import role_of
from diptych.linear import CS, among_first, best_c, classifier, fitted, hits, hold_out
from diptych.methods.abilities import require
from diptych.metrics import TIE
from diptych.rng import generator

card = {
    "title": "Probes of frozen features: linear, few-shot, nearest neighbours",
    "needs": ["labels"],  # and images or texts, depending on `features`
    "abilities": [],  # embed_images, represent or embed_texts, depending on `features`
}

Fit = Literal["logistic", "sgd", "pooler"]


def ready(
    model: Any,
    source: Source,
    *,
    label: str | None = None,
    train: Source | str | None = None,
    features: Features = "embedding",
    role: str | None = None,
    shots: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    k: int = 20,
    fit: Fit = "logistic",
    val: Source | str | None = None,
    bootstrap: int = 0,
) -> None:
    """Raise InputError for a label, features or numbers that do not fit."""
    features_ready(model, source, features, role)
    for name, values, least in (
        ("shots", shots, 1),
        ("k", (k,), 1),
        ("bootstrap", (bootstrap,), 0),
    ):
        if any(value < least for value in values):
            raise InputError(f"{name} is {min(values)}; it must be at least {least}")
    if fit not in get_args(Fit):
        raise unknown("way to fit a probe", fit, get_args(Fit))
    if fit == "pooler":
        require(model, "represent", "a probe with fit=pooler")
        if features == "text" or shots:
            raise InputError(
                "fit=pooler reads the tokens of images, all that are labelled; leave out "
                + ("features=text" if features == "text" else "shots")
            )
    if not seeds:
        raise InputError("a probe has no seed; give one at least, such as 0")
    label = class_label(source, label)
    halves = split(source, train, seeds[0])
    for other in (halves.train, *([opened(val)] if val is not None else ())):
        _same_classes(other, halves.test, label)
    if shots:
        labels = labels_of(halves.train, label)
        _enough(labels[labels >= 0], max(shots), source.schema()[f"labels.{label}"].classes)


def probe(
    model: Any,
    source: Source,
    *,
    train: Source | str | None = None,
    label: str | None = None,
    features: Features = "embedding",
    role: str | None = None,
    shots: Sequence[int] = (),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    k: int = 20,
    fit: Fit = "logistic",
    val: Source | str | None = None,
    bootstrap: int = 0,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the accuracy of a linear probe and of nearest neighbours: `linear_top1`,
    `linear_top3`, `linear_mean_per_class`, `C`, `knn_top1`.

    - `train`, a source or its spec, trains the probes, which are tested on `source`; without it
      `source` is split by the first seed.
    - `label` is class, or the first integer label.
    - `features` are those of images, or "text", of the first text of `role` (caption, or the first)
      of each sample.
    - `fit` is logistic regression, "sgd", or "pooler", which reads the tokens of the image tower and
      returns `pooler_top1` and so on in place of `linear_top1`; kNN reads `features` as ever. The
      chosen `epoch` of both is returned in place of C. C, or the epoch, is chosen on `val`, a source
      or its spec; without it on a fifth of the training samples.
    - `bootstrap` adds `linear_top1_std` and `linear_top3_std`, over that many bootstrap samples of
      the test images.
    - `shots` adds few-shot probes by logistic regression, their mean and standard deviation over
      `seeds` in `by_shots`.

    Also returned: `n` test images, `n_train`, the chance values, `bad` samples by reason, and the
    protocol.
    """
    ready(
        model,
        source,
        label=label,
        train=train,
        features=features,
        role=role,
        shots=shots,
        seeds=seeds,
        k=k,
        fit=fit,
        val=val,
        bootstrap=bootstrap,
    )
    label = class_label(source, label)
    seed = seeds[0]
    halves = split(source, train, seed)
    bad = Counter()
    choosing = () if val is None else (opened(val),)

    def known(sample: Sample) -> int:
        return int(label_of(sample, label))

    parts = (halves.train, halves.test, *choosing)
    steps = Steps(progress, sum(map(len, parts)) * (2 if fit == "pooler" else 1))
    how: dict[str, Any] = {"exact": exact, "batch_size": batch_size, "steps": steps}
    read = partial(frozen, model, features=features, role=role, **how)
    (x, y), (test_x, test_y), *aside = (read(part, known, bad) for part in parts)
    chosen: dict[str, float] = {}
    judged = test_x
    if fit == "pooler":
        tokens = [frozen_tokens(model, part, known, Counter(), **how)[0] for part in parts]
        held = [(each, labels) for each, (_, labels) in zip(tokens[2:], aside, strict=True)]
        line = pooler(*_parted(tokens[0], y, seed, *held), seed=seed)
        judged = tokens[1]
        chosen["epoch"] = line.epoch
    elif fit == "sgd":
        line = layer(*_parted(x, y, seed, *aside), seed=seed)
        chosen["epoch"] = line.epoch
    else:
        line, chosen["C"] = classifier(x, y, seed=seed, aside=aside[0] if aside else None)
    by_line = report(line, y, judged, test_y, bootstrap=bootstrap, seed=seed)
    name_of = "pooler" if fit == "pooler" else "linear"
    results: dict[str, Any] = {"n": len(test_y), "n_train": len(y), "classes": len(np.unique(y))}
    results |= {
        f"{name_of}_{name}": value
        for name, value in by_line.items()
        if not name.startswith("chance_")
    } | chosen
    results |= {
        "knn_top1": knn(x, y, test_x, test_y, k=k)["top1"],
        "chance_knn_top1": by_line["chance_top1"],
    }
    results |= {
        f"chance_{name_of}_{name}": by_line[f"chance_{name}"]
        for name in ("top1", "top3", "mean_per_class")
    }
    options = [*halves.options, f"features={features}", f"seed={seed}", f"k={k}"]
    if features == "text":
        options.append(f"role={role_of('a probe of texts', source, role)}")
    options += [f"val={data_of(part)} {split_of(part.keys())}" for part in choosing]
    if shots:
        results["by_shots"] = {
            str(count): few_shot(x, y, test_x, test_y, shots=count, seeds=seeds) for count in shots
        }
        options += [f"shots={','.join(map(str, shots))}", f"seeds={','.join(map(str, seeds))}"]
    protocol = protocol_of(
        "probe", source, model, exact=exact, field=label, rule=_RULES[fit], options=tuple(options)
    )
    return results | {"bad": dict(bad)} | describe(protocol, model)


_RULES: dict[Fit, str] = {
    "logistic": "standardised features, logistic regression, C by a fifth kept aside; kNN by cosine; ties lose",
    "pooler": "a pooler and a softmax layer on tokens, epoch by a fifth kept aside; kNN by cosine; ties lose",
    "sgd": "features over their mean norm, a layer by SGD, epoch by a fifth kept aside; kNN by cosine; ties lose",
}


def _parted(
    x: np.ndarray, y: np.ndarray, seed: int, aside: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return features and labels to fit on and to choose by: all and those `aside`, or four fifths
    and a fifth."""
    if aside is not None:
        return x, y, *aside
    fit, choose = hold_out(len(y), seed)
    return x[fit], y[fit], x[choose], y[choose]


def linear(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    seed: int = 0,
    cs: Sequence[float] = CS,
) -> dict[str, float]:
    """Return `top1`, `mean_per_class` and the chosen `C` of a logistic regression on frozen
    features (N, D), labels (N,).

    C is the one of `cs` with the best accuracy on a held-out fifth, the smallest of equal ones;
    then all samples are fitted. A class that is not in `labels` is never correct. Raises InputError
    if there are fewer than two classes.

    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> linear(x, (x[:, 0] > 0).astype(int), x, (x[:, 0] > 0).astype(int))["top1"] > 0.9
    True
    """
    model, C = classifier(features, labels, seed=seed, cs=cs)
    return {**hit_rates(hits(model, test_features, test_labels), labels, test_labels), "C": C}


def few_shot(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    shots: int,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    cs: Sequence[float] = CS,
) -> dict[str, float]:
    """Return `top1`, its standard deviation over seeds `std`, and chance, of linear probes trained
    on `shots` samples a class.

    C is chosen for each seed on min(shots, 4) further samples a class, if a class has any. Raises
    InputError if a class has fewer than `shots` samples.
    """
    _enough(labels, shots)
    classes = np.unique(labels)
    found = []
    for seed in seeds:
        draw = generator(seed, "few-shot", shots)
        orders = [draw.permutation(np.flatnonzero(labels == value)) for value in classes]
        fit = np.concatenate([order[:shots] for order in orders])
        aside = np.concatenate([order[shots : shots + min(shots, 4)] for order in orders])
        aside = aside if len(aside) else fit
        C = best_c(cs, features[fit], labels[fit], features[aside], labels[aside])
        found.append(
            float(hits(fitted(features[fit], labels[fit], C), test_features, test_labels).mean())
        )
    chance = hit_rates(np.zeros(len(test_labels)), labels, test_labels)["chance_top1"]
    return {"top1": float(np.mean(found)), "std": float(np.std(found)), "chance_top1": chance}


def knn(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    k: int = 20,
) -> dict[str, float]:
    """Return `top1` of the most common class among the k nearest by cosine, and the chance value.

    Samples as near as the k-th count too, so the result does not depend on the order of the data;
    equally common classes are all wrong. (scikit-learn's classifier breaks both kinds of ties by
    that order.)

    >>> x = np.array([[1.0, 0], [0.9, 0.1], [0, 1]])
    >>> knn(x, np.array([0, 0, 1]), np.array([[1.0, 0.2]]), np.array([0]), k=2)["top1"]
    1.0
    """
    classes, number = np.unique(labels, return_inverse=True)
    one_hot = torch.eye(len(classes))[torch.from_numpy(number)]
    a, b = (
        normalize(torch.as_tensor(values).float(), dim=1) for values in (test_features, features)
    )
    right = []
    for part, wanted in zip(
        a.split(1024), np.array_split(test_labels, range(1024, len(a), 1024)), strict=True
    ):
        near = part @ b.T
        last = near.topk(min(k, len(b)), dim=1).values[:, -1:]
        votes = (near >= last - TIE).float() @ one_hot
        right.append(among_first(votes, classes, wanted))
    return hit_rates(np.concatenate(right), labels, test_labels)


def class_label(source: Source, label: str | None) -> str:
    """Return the integer label to probe for: the given one, or class, or the first."""
    whole = [
        name.removeprefix("labels.")
        for name, field in source.schema().items()
        if name.startswith("labels.") and field.kind == "int"
    ]
    if label is None:
        if not whole:
            raise InputError(
                f"a probe needs a whole-number label, which source {source.name!r} does not give"
            )
        return "class" if "class" in whole else whole[0]
    if label not in whole:
        raise unknown(f"whole-number label of source {source.name!r}", label, whole)
    return label


def _enough(labels: np.ndarray, shots: int, names: Sequence[str] = ()) -> None:
    """Raise InputError if a class has fewer than `shots` samples."""
    classes, counts = np.unique(labels, return_counts=True)
    if len(counts) and counts.min() < shots:
        few = int(classes[counts.argmin()])
        name = repr(names[few]) if few < len(names) else few
        raise InputError(
            f"{shots} shots a class are asked for, class {name} has {counts.min()} samples; ask for fewer"
        )


def _same_classes(train: Source, test: Source, label: str) -> None:
    """Raise InputError if the numbers of a label have other class names in one source than in the
    other."""
    class_label(train, label)
    if train.schema()[f"labels.{label}"].classes != test.schema()[f"labels.{label}"].classes:
        raise InputError(
            f"label {label!r} has other class names in {train.name!r} than in {test.name!r}"
        )
