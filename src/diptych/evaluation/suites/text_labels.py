"""Labels of texts: whether the texts of a label have a higher score with its name than other texts.

    AP_k = Σ_t (R_t - R_t-1) P_t          over the different scores t of texts with label k, from the highest

P_t and R_t are precision and recall among the texts whose score is at least t, so that texts of equal
score are one group. The score is the model's `match` of text and label, or the cosine of the text with
the mean direction of the label's name in the templates. Scores closer than rounding count as equal.
Chance is the share of the texts that have the label: the average precision of equal scores.

Labels are texts of a role, any number for each sample, or a label with class names. Means are over
labels, also by their frequency, in `train` or in the data itself:

    tail      up to the lower quartile of the frequencies            unseen    not in `train`, which the others are
    head      from the upper quartile on                             middle    between

Where all labels are equally frequent they are middle. If each text has one label, top-1 accuracy is
reported too.

Source: Rethmeier and Augenstein 2020 (CLESS), average precision by frequency.

Dimensions: N texts, K labels, E embedding.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import BadSample, Sample, Source
from diptych.data.templates import checked, filled, written
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import (
    Progress,
    Steps,
    as_vectors,
    embed_texts,
    nothing_left,
    read_texts,
)
from diptych.evaluation.protocol import data_of, describe, protocol_of, split_of
from diptych.evaluation.suites._features import opened
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.methods.abilities import matches_labels, require
from diptych.metrics import TIE, average_precision, class_ranks
from diptych.models.class_names import mean_directions, plainly

card = {
    "title": "Labels of texts: average precision",
    "needs": ["texts"],
    "abilities": [],  # match or embed_texts, depending on `by`
}

By = Literal["embed", "match"]
BUCKETS = ("head", "middle", "tail", "unseen")


@dataclass(frozen=True)
class LabelField:
    """Where the labels of a source are: a role of texts, or a label with class names `classes`."""

    name: str
    classes: tuple[str, ...] | None = None

    def of(self, sample: Sample) -> list[str]:
        """The labels of a sample, as they are written."""
        kind, _, name = self.name.partition(".")
        if kind == "texts":
            return [text.strip() for text in sample.captions(name) if text.strip()]
        assert self.classes is not None
        number = int(sample.labels.get(name, -1))
        return [self.classes[number]] if 0 <= number < len(self.classes) else []


def label_field(suite: str, source: Source, label: str | None = None) -> LabelField:
    """Return the labels of a source: `label`, texts.NAME or labels.NAME or NAME for either, by default
    texts.label, else the label class or the first with class names.

    Raises InputError if there are none.
    """
    there = {
        name: LabelField(name, field.classes or None)
        for name, field in source.schema().items()
        if name.startswith("texts.") or (name.startswith("labels.") and field.classes)
    }
    named = [name for name in there if name.startswith("labels.")]
    if label is None:
        usual = [name for name in ("texts.label", "labels.class", *named) if name in there]
        if not usual:
            raise InputError(
                f"{suite} needs labels of texts, and source {source.name!r} gives neither texts of role label nor a "
                "label with class names; name a role of texts with label="
            )
        return there[usual[0]]
    for name in (label, f"texts.{label}", f"labels.{label}"):
        if name in there:
            return there[name]
    raise unknown(f"label with words of source {source.name!r}", label, there)


def label_names(source: Source, field: LabelField) -> list[str]:
    """Return the different labels of a source, as they are first written: the class names in their
    order, or the texts of the role in alphabetical order.

    Raises InputError if there are none.
    """
    if field.classes is not None:
        return list(field.classes)
    bad: Counter[str] = Counter()
    found: dict[str, str] = {}
    for labels in read_texts(source, field.of, bad):
        for label in labels:
            found.setdefault(plainly(label), label)
    if not found:
        raise nothing_left(source, Counter({"no-label": len(source)}))
    return [found[name] for name in sorted(found)]


def ready(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    label: str | None = None,
    names: Sequence[str] = (),
    templates: Sequence[str] | None = None,
    train: Source | str | None = None,
    by: By | None = None,
) -> None:
    """Raise InputError for roles, labels and abilities that are missing."""
    field = label_field("text_labels", source, label)
    if field.name == f"texts.{role_of('text_labels', source, role)}":
        raise InputError(
            f"{field.name} of {source.name} are both the texts and their labels; name the texts with role="
        )
    if by not in (None, "embed", "match"):
        raise unknown("way to score", by, ("embed", "match"))
    if way(model, by) == "match":
        if not matches_labels(model):
            raise InputError(
                "text_labels needs a model whose match reads texts and labels; leave by out, and it takes cosines"
            )
        if templates is not None:
            raise InputError("labels are matched by their words; leave templates out")
    else:
        require(model, "embed_texts", "text_labels")
        checked(("{}",) if templates is None else templates, "text_labels")
    if train is not None:
        label_field("text_labels", opened(train), field.name)


def way(model: Any, by: By | None) -> By:
    """Return how labels are scored: as asked for, else by `match` where the model has it."""
    return by or ("match" if matches_labels(model) else "embed")


def text_labels(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    label: str | None = None,
    names: Sequence[str] = (),
    templates: Sequence[str] | None = None,
    train: Source | str | None = None,
    by: By | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `average_precision`, the mean over labels, and that of labels by their frequency,
    `head_average_precision` ….

    - `role` is the role of the texts (caption, or the first); each text of a sample has the labels of
      the sample.
    - `label` is where the labels are (`label_field`).
    - `names` are some of the labels, such as those held out in training; `by_label` then has each.
    - `templates` are put around a label's name for cosines, by default none.
    - `train`, a source or its spec, gives the frequencies.
    - `by` is match or embed, by default match if the model has it.

    Also returned: `n` texts, `labels` of which there are texts, `top1` where each text has one label,
    `by_frequency`, `bad` samples by reason (those without a label are left out), the chance values and
    the protocol.
    """
    ready(
        model,
        source,
        role=role,
        label=label,
        names=names,
        templates=templates,
        train=train,
        by=by,
    )
    role = role_of("text_labels", source, role)
    field = label_field("text_labels", source, label)
    by = way(model, by)
    prompts = ("{}",) if templates is None else tuple(templates)
    asked = _asked(source, field, names)
    bad: Counter[str] = Counter()
    texts, relevant = _read(source, role, field, asked, bad)
    steps = Steps(progress, len(texts))
    if by == "match":
        scores = matched(model, texts, asked, batch_size=batch_size, steps=steps)
    else:
        scores = cosines(model, texts, asked, prompts, batch_size=batch_size, steps=steps)
    counted = None if train is None else frequencies(opened(train), field.name, asked)
    found = report(scores.numpy(), relevant, counted)
    precisions = found.pop("precisions")
    if names:
        found["by_label"] = {
            name: {"n": int(count), "average_precision": float(value), "chance": float(chance)}
            for name, value, count, chance in zip(
                asked, precisions, relevant.sum(0), relevant.mean(0), strict=True
            )
            if count
        }
    options = [f"by={by}", f"role={role}"]
    if train is not None:
        trained = opened(train)
        options.append(f"train={data_of(trained)} {split_of(trained.keys())}")
    protocol = protocol_of(
        "text_labels",
        source,
        model,
        field=field.name,
        prompts=() if by == "match" else prompts,
        classes=asked,
        rule="average precision, equal scores are one group; mean over labels; top-1: ties lose",
        options=tuple(options),
    )
    return found | {"bad": dict(bad)} | describe(protocol, model)


def report(
    scores: np.ndarray, relevant: np.ndarray, frequency: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the numbers of `text_labels` from scores (N, K) and which labels texts have, relevant
    (N, K) bool; `precisions` (K,) are those of each label, NaN of one without texts.

    frequency (K,) is that of the labels in training, by default in `relevant`.

    >>> scores = np.array([[0.9, 0.1], [0.8, 0.3], [0.2, 0.3]])
    >>> report(scores, np.array([[1, 0], [0, 1], [1, 0]], bool))["average_precision"]
    0.666...
    """
    precisions = average_precision(rounded(scores), relevant)
    prevalence = relevant.mean(0)
    present = np.isfinite(precisions)
    seen = relevant.sum(0) if frequency is None else frequency
    bucket = buckets(seen, present)
    found: dict[str, Any] = {"n": len(scores), "labels": int(present.sum())}
    found |= _means("", precisions[present], prevalence[present])
    rows = {}
    for name in BUCKETS:
        own = present & (bucket == name)
        if own.any():
            found |= _means(f"{name}_", precisions[own], prevalence[own])
            rows[name] = {
                "labels": int(own.sum()),
                "min_count": int(seen[own].min()),
                "max_count": int(seen[own].max()),
                "average_precision": float(precisions[own].mean()),
                "chance": float(prevalence[own].mean()),
            }
    if (relevant.sum(1) == 1).all() and relevant.shape[1] > 1:
        hits = class_ranks(scores, relevant.argmax(1)) <= 1
        found |= {"top1": float(hits.mean()), "chance_top1": 1 / relevant.shape[1]}
    return found | {"by_frequency": rows, "precisions": precisions}


def _means(bucket: str, precisions: np.ndarray, prevalence: np.ndarray) -> dict[str, float]:
    return {
        f"{bucket}average_precision": float(precisions.mean()),
        f"chance_{bucket}average_precision": float(prevalence.mean()),
    }


def rounded(scores: np.ndarray) -> np.ndarray:
    """Scores (N, K) to 1e-6 of the largest of each label, so that those that differ by rounding alone
    are equal."""
    values = np.asarray(scores, np.float64)
    unit = TIE * np.maximum(np.abs(values).max(0, initial=0), 1e-30)
    return np.round(values / unit)


def buckets(frequency: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
    """The bucket of each label by its frequency (K,); quartiles are of those that are `present` (K,)
    and not unseen.

    >>> buckets(np.array([0, 1, 1, 2, 30, 400])).tolist()
    ['unseen', 'tail', 'tail', 'middle', 'head', 'head']
    """
    frequency = np.asarray(frequency)
    counted = frequency > 0 if present is None else (frequency > 0) & present
    found = np.full(len(frequency), "middle", dtype=object)
    if counted.any():
        low, high = np.quantile(frequency[counted], [0.25, 0.75])
        if low < high:
            found[frequency <= low] = "tail"
            found[frequency >= high] = "head"
    found[frequency == 0] = "unseen"
    return found


def matched(
    model: Any, texts: Sequence[str], names: Sequence[str], *, batch_size: int, steps: Steps
) -> Tensor:
    """The logits (N, K) of texts with labels by the model's `match`."""
    labels = [written(name) for name in names]
    rows = []
    for start in range(0, len(texts), batch_size):
        part = list(texts[start : start + batch_size])
        rows.append(as_vectors(model.match(part, labels, batch_size=batch_size)))
        steps.add(len(part))
    return torch.cat(rows)


def cosines(
    model: Any,
    texts: Sequence[str],
    names: Sequence[str],
    templates: Sequence[str],
    *,
    batch_size: int,
    steps: Steps,
) -> Tensor:
    """The cosines (N, K) of texts with labels, each the mean direction of its name in templates."""
    prompts = [filled(template, name) for name in names for template in templates]
    steps.total += len(prompts)
    vectors = embed_texts(model, prompts, batch_size=batch_size, steps=steps)
    directions = mean_directions(vectors, len(names), getattr(model, "shares", (1.0,)))
    return embed_texts(model, texts, batch_size=batch_size, steps=steps) @ directions.T


def frequencies(source: Source, label: str, names: Sequence[str]) -> np.ndarray:
    """In how many samples of a source each label (K,) is."""
    field = label_field("text_labels", source, label)
    counts: Counter[str] = Counter()
    for labels in read_texts(source, field.of, Counter()):
        counts.update({plainly(name) for name in labels})
    return np.array([counts[plainly(name)] for name in names])


def _asked(source: Source, field: LabelField, names: Sequence[str]) -> list[str]:
    """Return the labels to measure: all of the source, or those named."""
    there = label_names(source, field)
    if not names:
        return there
    known = {plainly(name) for name in there}
    for name in names:
        if plainly(name) not in known:
            raise unknown(f"label in {field.name} of {source.name!r}", name, there)
    return list({plainly(name): name.strip() for name in names}.values())


def _read(
    source: Source, role: str, field: LabelField, names: Sequence[str], bad: Counter[str]
) -> tuple[list[str], np.ndarray]:
    """Return texts, and which of the labels they have (N, K)."""
    place = {plainly(name): at for at, name in enumerate(names)}

    def both(sample: Sample) -> tuple[list[str], list[int]]:
        own = texts_of(sample, role)
        labels = field.of(sample)
        if not labels:
            raise BadSample("no-label", f"{sample.key} has no {field.name}")
        return own, [place[plainly(name)] for name in labels if plainly(name) in place]

    texts: list[str] = []
    rows: list[int] = []
    columns: list[int] = []
    for own, labels in read_texts(source, both, bad):
        for text in own:
            rows += [len(texts)] * len(labels)
            columns += labels
            texts.append(text)
    relevant = np.zeros((len(texts), len(names)), bool)
    relevant[rows, columns] = True
    if not relevant.any():
        raise InputError(f"no text of {source.name!r} has one of the labels {', '.join(names[:5])}")
    return texts, relevant
