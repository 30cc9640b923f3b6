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

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.data.sample import BadSample, Sample, Source
from diptych.data.templates import BANKS
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, as_vectors, clips_of, embed_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._class_scores import (
    directions,
    is_learnt,
    judged_images,
    likelihoods,
    prompt_rows,
)
from diptych.evaluation.suites._labels import (
    Novel,
    base_and_novel,
    group_accuracy,
    group_field,
    group_of,
    named_label,
    novel_classes,
    worst,
)
from diptych.evaluation.suites._prompts import (
    Combine,
    check_combined,
    drawn_accuracy,
    prompts_of,
    warn_of_cuts,
)
from diptych.evaluation.suites._sources import mean_of_sources, parts_of
from diptych.methods.abilities import require
from diptych.metrics import auroc as area
from diptych.metrics import per_class, ranks, similarities

card = {
    "title": "Zero-shot classification by class names",
    "needs": ["images.main", "labels"],
    "abilities": ["embed_images", "embed_texts"],
    "instead": {"embed_images": "index"},
}

TEMPLATES = BANKS["images"]

By = Literal["embed", "log_prob"]
"""Whether a class is compared with an image by vectors, or by the probability of its prompts."""


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
    if classnorm and is_learnt(model):
        raise InputError(
            f"{model.name} computes logits of its own, without class embeddings; leave classnorm out"
        )
    if by not in ("embed", "log_prob"):
        raise unknown("way to score classes", by, ("embed", "log_prob"))
    if by == "log_prob":
        require(model, "log_prob", "zeroshot by log_prob")
        if draws or classnorm or is_learnt(model):
            raise InputError(
                "log_prob has no class embeddings; leave draws and classnorm out, and measure a classifier by embed"
            )
    check_combined(combine, draws, classnorm, is_learnt(model))
    own_templates = tuple(templates) != TEMPLATES
    if is_learnt(model) and (own_templates or prompts is not None):
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

    learnt = is_learnt(model)
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
        images, classes = directions(model, images, vectors, sets, classnorm, combine)
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
