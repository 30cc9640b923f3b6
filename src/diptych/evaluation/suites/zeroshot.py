"""Zero-shot classification: a class embedding is the mean direction of the class name in several
prompts.

    class_c = unit( mean_t unit(text(template_t with name_c)) ),        prediction = argmax_c <image, class_c>

With `novel` the classes are split into two halves, and each image is classified among the classes
of its own half:

    H = 2 · base · novel / (base + novel)

A model with learned prompts (`models.classifier`) computes its own logits and accepts no templates.
If its class embeddings depend on each other, the classes of each half are set alone and the images
are classified again.

With `prompts`, each class has texts of its own in place of the templates, for any model that embeds
texts: those that a run found for the same classes, or the sentences of a file {"class": […], …}.

With `combine="max"` the score of a class is that of its nearest prompt, in place of the mean
direction:

    score_c = max_t <image, unit(text_tc)>

With `by="log_prob"` the score of a class is the log-likelihood that a model that writes gives its prompts,
each with equal probability [choice], or with `combine="max"` the likeliest of them:

    score_c = log mean_t p(text_tc and its end | image)

`draws` measures how much the choice of prompts matters: the accuracy with one random prompt for each
class, its mean and standard deviation over that many choices.

With `classnorm` each coordinate of the class embeddings is standardised over the classes [choice]:

    class_c <- unit( (class_c - mean_c class_c) / std_c class_c )

With `group` a second label groups the images, and accuracy is reported for each group, for the worst
one, and as their mean.

With `by_source` each source is measured by itself, among its own classes, and all numbers are means
over the sources.

Sources: Radford et al. 2021 (CLIP), section 3.1; Zhou et al. 2022 (CoCoOp) and Khattak et al. 2023
(MaPLe), base and novel classes; Sagawa et al. 2020, the worst group.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import BadSample, Field, Sample, Source
from diptych.data.sources.subset import novel_half
from diptych.data.templates import BANKS, filled
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import (
    Embedded,
    Progress,
    Steps,
    as_vectors,
    clip_or_image,
    clips_of,
    embed_images,
    embed_texts,
    read_images,
)
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._prompts import (
    Combine,
    check_combined,
    drawn_accuracy,
    nearest_of_class,
    prompts_of,
    warn_of_cuts,
)
from diptych.evaluation.suites._sources import mean_of_sources, parts_of
from diptych.methods.abilities import require
from diptych.metrics import Array, harmonic_mean, per_class, ranks, similarities
from diptych.metrics import auroc as area
from diptych.models.class_names import mean_directions, standardised

card = {
    "title": "Zero-shot classification by class names",
    "needs": ["images.main", "labels"],
    "abilities": ["embed_images", "embed_texts"],
    "instead": {"embed_images": "index"},
}

TEMPLATES = BANKS["images"]
log = logging.getLogger(__name__)

By = Literal["embed", "log_prob"]
"""Whether a class is compared with an image by vectors, or by the probability of its prompts."""

Novel = Literal["half"] | Sequence[str]
"""Names of the novel classes, or "half": the later half of the classes in the order of their
numbers."""


def ready(
    model: Any,
    source: Source,
    *,
    label: str | None = None,
    templates: Sequence[str] = TEMPLATES,
    prompts: str | Path | None = None,
    group: str | None = None,
    novel: Novel | None = None,
    classnorm: bool = False,
    by_source: bool = False,
    auroc: bool = False,
    combine: Combine = "mean",
    draws: int = 0,
    by: By = "embed",
) -> None:
    """Raise InputError for labels, templates, prompts and class names that do not fit the
    source."""
    if by_source:
        if group is not None or novel is not None or draws or auroc:
            raise InputError(
                "by_source measures whole sources; leave out group, novel, draws and auroc"
            )
        how = {
            "label": label,
            "templates": templates,
            "prompts": prompts,
            "classnorm": classnorm,
            "combine": combine,
            "by": by,
        }
        for part in parts_of(source):
            ready(model, part, **how)
        return
    label = named_label("zeroshot", source, label)
    classes = source.schema()[f"labels.{label}"].classes
    if auroc and len(classes) != 2:
        raise InputError(
            f"{label} of {source.name} has {len(classes)} classes; auroc is of two, leave it out"
        )
    if classnorm and _learnt(model):
        raise InputError(
            f"{model.name} computes logits of its own, without class embeddings; leave classnorm out"
        )
    if by not in ("embed", "log_prob"):
        raise unknown("way to score classes", by, ("embed", "log_prob"))
    if by == "log_prob":
        require(model, "log_prob", "zeroshot by log_prob")
        if draws or classnorm or _learnt(model):
            raise InputError(
                "log_prob has no class embeddings; leave draws and classnorm out, and measure a classifier by embed"
            )
    check_combined(combine, draws, classnorm, _learnt(model))
    own_templates = tuple(templates) != TEMPLATES
    if _learnt(model) and (own_templates or prompts is not None):
        raise InputError(
            f"{model.name} was trained with prompts of its own; leave templates and prompts out"
        )
    if own_templates and prompts is not None:
        raise InputError("the prompts of a run have templates of their own; give one of the two")
    prompts_of(source, label, templates, prompts)
    if group is not None:
        group_field(source, group)
    if novel is not None:
        novel_classes(classes, novel)


def zeroshot(
    model: Any,
    source: Source,
    *,
    label: str | None = None,
    templates: Sequence[str] = TEMPLATES,
    prompts: str | Path | None = None,
    group: str | None = None,
    novel: Novel | None = None,
    classnorm: bool = False,
    by_source: bool = False,
    auroc: bool = False,
    combine: Combine = "mean",
    draws: int = 0,
    by: By = "embed",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the accuracy of predicting each image's class: `top1`, `top5`, `mean_per_class`, and
    the chance values.

    `label` is a label with class names: "class", or the first. `prompts` is the folder of a run that
    holds prompts of the classes, or a JSON file of sentences by class, in place of `templates`. Also
    returned: `n` images, `classes`, `classes_seen` (those with images, over which the mean is),
    `bad` samples by reason, and the protocol. Samples without the label (-1) are left out. Ties
    count against the model.

    With `draws`: `drawn_top1` and `drawn_top1_std`, of one random prompt for each class.

    With `novel`: `base_top1`, `novel_top1` and their harmonic mean `harmonic`. With `group`:
    `worst_group_top1`, `macro_group_top1`, and the groups one by one in `by_group`. With `by_source`:
    the sources one by one in `by_source`. With `auroc`, of two classes, the area under the curve of
    the difference of their scores.
    """
    how: dict[str, Any] = {
        "templates": templates,
        "prompts": prompts,
        "classnorm": classnorm,
        "combine": combine,
        "by": by,
    }
    fitting = {
        "group": group,
        "novel": novel,
        "by_source": by_source,
        "draws": draws,
        "auroc": auroc,
    }
    ready(model, source, label=label, **fitting, **how)
    if by_source:
        how |= {"label": label, "batch_size": batch_size, "exact": exact}
        return mean_of_sources(zeroshot, model, source, progress=progress, **how)
    label = named_label("zeroshot", source, label)
    names = source.schema()[f"labels.{label}"].classes
    found = prompts_of(source, label, templates, prompts)
    sets = [found.of(name) for name in names]

    def known(sample: Sample) -> tuple[int, int]:
        """Return the class and group of a sample."""
        value = int(sample.labels.get(label, -1))
        if not 0 <= value < len(names):
            raise BadSample("no-label", f"{sample.key} has no {label}")
        return value, group_of(sample, group)

    learnt = _learnt(model)
    again = novel is not None and learnt and not model.classifier.independent
    embedded = 0 if learnt or by == "log_prob" else sum(map(len, sets))
    steps = Steps(progress, len(source) * (3 if again else 1) + embedded)
    reading = {"exact": exact, "batch_size": batch_size, "steps": steps}
    drawn: dict[str, float] = {}
    if learnt:
        images, classes = judged_images(model, source, known, names, **reading)
    elif by == "log_prob":
        images, classes = likelihoods(model, source, known, sets, combine, **reading)
    else:
        if prompts is not None:
            warn_of_cuts(model, sets)
        vectors = prompt_rows(model, sets, batch_size=batch_size, steps=steps)
        images = embed_images(model, source, known, **reading)
        if draws:
            truth = np.array(images.facts)[:, 0]
            drawn = drawn_accuracy(images.vectors, vectors, [*map(len, sets)], truth, draws)
        images, classes = _directions(model, images, vectors, sets, classnorm, combine)
    labels, groups = np.array(images.facts).T
    rank = ranks(images.vectors, classes, labels)
    results = _accuracy(rank, labels, len(names)) | drawn
    if auroc:
        scores = similarities(as_vectors(images.vectors), as_vectors(classes))
        results["auroc"] = area((scores[:, 1] - scores[:, 0]).numpy(), labels == 1)
        results["chance_auroc"] = 0.5
    held_out = None if novel is None else novel_classes(names, novel)
    if held_out is not None:
        if again:  # the columns of each half are the logits with only its classes set
            for half in (~held_out, held_out):
                own = np.array(names)[half].tolist()
                inside, _ = judged_images(model, source, known, own, **reading)
                images.vectors[:, half] = inside.vectors
        results |= base_and_novel(images.vectors, classes, labels, held_out)
    if group is not None:
        by_group = group_accuracy(rank <= 1, groups, group_field(source, group).classes)
        results |= worst(by_group) | {
            "chance_worst_group_top1": 1 / len(names),
            "chance_macro_group_top1": 1 / len(names),
            "by_group": by_group,
        }
    options = (
        *clips_of(source),
        prompts is not None and f"prompts={found.digest()}",
        by != "embed" and f"by={by}",
        combine == "max" and "combine=max",
        draws and f"draws={draws}",
        classnorm and "classnorm",
        held_out is not None and f"novel={','.join(np.array(names)[held_out])}",
        group is not None and f"group={group}",
    )
    protocol = protocol_of(
        "zeroshot",
        source,
        model,
        exact=exact,
        field=label,
        prompts=() if learnt else found.templates,
        classes=names,
        rule=f"{_rule(learnt, by)}; ties lose",
        options=tuple(option for option in options if option),
    )
    return results | {"bad": dict(images.bad)} | describe(protocol, model)


def _rule(learnt: bool, by: By) -> str:
    """Return what the score of a class is, as protocols name it."""
    if learnt:
        return "the model's own logits"
    return "mean of unit prompt vectors, unit" if by == "embed" else "mean likelihood of prompts"


def _directions(
    model: Any,
    images: Embedded,
    vectors: Tensor,
    sets: Sequence[Sequence[str]],
    classnorm: bool,
    combine: Combine,
) -> tuple[Embedded, Tensor]:
    """Return vectors of images and of classes whose products are the scores, given those of all
    prompts (P, E)."""
    sizes = [*map(len, sets)]
    if combine == "max":
        nearest = nearest_of_class(similarities(images.vectors, vectors), sizes)
        return replace(images, vectors=nearest), torch.eye(len(sets))
    classes = mean_directions(vectors, sizes, getattr(model, "shares", (1.0,)))
    return images, standardised(classes) if classnorm else classes


def _accuracy(rank: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """Return the accuracies, given the rank (N,) of each image's class, and what chance gives."""
    by_class = per_class(rank <= 1, labels, classes)
    return {
        "n": len(labels),
        "classes": classes,
        "classes_seen": int(np.isfinite(by_class).sum()),
        "top1": float((rank <= 1).mean()),
        "top5": float((rank <= 5).mean()),
        "mean_per_class": float(np.nanmean(by_class)),
        "chance_top1": 1 / classes,
        "chance_top5": min(5, classes) / classes,
        "chance_mean_per_class": 1 / classes,
    }


def class_vectors(
    model: Any, names: Sequence[str], templates: Sequence[str], *, batch_size: int, steps: Steps
) -> Tensor:
    """Return the direction of each class (C, E): that of its name in the templates."""
    sets = [[filled(template, name) for template in templates] for name in names]
    return prompt_vectors(model, sets, batch_size=batch_size, steps=steps)


def prompt_vectors(
    model: Any, sets: Sequence[Sequence[str]], *, batch_size: int, steps: Steps
) -> Tensor:
    """Return the direction of each class (C, E), given its prompts: the normalised mean of their
    unit vectors."""
    vectors = prompt_rows(model, sets, batch_size=batch_size, steps=steps)
    return mean_directions(vectors, [*map(len, sets)], getattr(model, "shares", (1.0,)))


def prompt_rows(
    model: Any, sets: Sequence[Sequence[str]], *, batch_size: int, steps: Steps
) -> Tensor:
    """Return the vectors of all prompts (P, E), class by class."""
    texts = [prompt for own in sets for prompt in own]
    return embed_texts(model, texts, batch_size=batch_size, steps=steps)


def judged_images(
    model: Any,
    source: Source,
    facts: Callable[[Sample], Any],
    names: Sequence[str],
    *,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> tuple[Embedded, Tensor]:
    """Return the logits (N, C) of a model with learned prompts, as vectors, and the axes (C, C),
    which are its classes.

    The model's classes are restored afterwards, since it may be in training.
    """
    before = model.classes
    model.set_classes(names)
    bad: Counter[str] = Counter()
    logits = []
    kept = []
    try:
        for pixels, reported in read_images(
            model,
            source,
            facts,
            bad,
            images=clip_or_image,
            exact=exact,
            batch_size=batch_size,
            steps=steps,
        ):
            logits.append(model.class_logits(pixels, batch_size=batch_size))
            kept += reported
    finally:
        if before:
            model.set_classes(before)
    return Embedded(torch.cat(logits), kept, bad), torch.eye(len(names))


def likelihoods(
    model: Any,
    source: Source,
    facts: Callable[[Sample], Any],
    sets: Sequence[Sequence[str]],
    combine: Combine,
    *,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> tuple[Embedded, Tensor]:
    """Return the log-likelihoods (N, C) of the classes' prompts, as vectors, and the axes (C, C), which
    are the classes."""
    prompts = [prompt for own in sets for prompt in own]
    sizes = [*map(len, sets)]
    bad: Counter[str] = Counter()
    scores = []
    kept = []
    how: dict[str, Any] = {"exact": exact, "batch_size": batch_size, "steps": steps}
    for pixels, reported in read_images(model, source, facts, bad, images=clip_or_image, **how):
        for image in pixels:
            repeated = image.expand(len(prompts), *image.shape)
            scores.append(as_vectors(model.log_prob(repeated, prompts, batch_size=batch_size)))
        kept += reported
    found = torch.stack(scores)
    if combine == "max":
        classes = nearest_of_class(found, sizes)
    else:
        parts = found.split(sizes, dim=1)
        means = [part.logsumexp(1) - math.log(part.shape[1]) for part in parts]
        classes = torch.stack(means, 1)
    return Embedded(classes, kept, bad), torch.eye(len(sizes))


def _learnt(model: Any) -> bool:
    """Whether a model has a classifier (`models.model.ClassifierModel`)."""
    return hasattr(model, "classifier")


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
