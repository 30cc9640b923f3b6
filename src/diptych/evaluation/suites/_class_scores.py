"""The score of each class for each image: by vectors of prompts, by a classifier's own logits, or by the
likelihood of prompts.

Each way returns vectors of images (N, E) and of classes (C, E) whose products are the scores.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diptych.data.sample import Sample, Source
from diptych.data.templates import filled
from diptych.evaluation.embed import (
    Embedded,
    Steps,
    as_vectors,
    clip_or_image,
    embed_texts,
    read_images,
)
from diptych.evaluation.suites._prompts import Combine, nearest_of_class
from diptych.metrics import similarities
from diptych.models.class_names import mean_directions, standardised


def is_learnt(model: Any) -> bool:
    """Whether a model has a classifier (`models.model.ClassifierModel`)."""
    return hasattr(model, "classifier")


def directions(
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
