"""The prompts of classes: templates, those that a run found, or sentences of a file, and how several
of a class are combined.

Dimensions: N images, P prompts of all classes, C classes, E embedding.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from diptych.data.descriptions import bank
from diptych.data.sample import Source
from diptych.data.templates import checked
from diptych.errors import InputError, located, unknown
from diptych.methods.store import read_prompts
from diptych.metrics import ranks
from diptych.models.class_prompts import ClassPrompts, cut
from diptych.rng import generator

Combine = Literal["mean", "max"]
"""How the prompts of a class are combined: their mean direction, or the nearest of them."""

log = logging.getLogger(__name__)


def prompts_of(
    source: Source, label: str, templates: Sequence[str], given: str | Path | None
) -> ClassPrompts:
    """Return the prompts of a run for the classes of a label, or the sentences of a JSON file, or,
    if neither is given, the templates.

    Raises InputError as `read_prompts`, `ClassPrompts.for_classes` and `descriptions.bank` do.
    """
    if given is None:
        return ClassPrompts(checked(templates, "zeroshot"))
    names = source.schema()[f"labels.{label}"].classes
    if str(given).lower().endswith(".json"):
        return ClassPrompts.of_sentences(dict(zip(names, bank(str(given), names), strict=True)))
    with located(f"{given} and {source.name}"):
        return read_prompts(given).for_classes(names)


def warn_of_cuts(model: Any, sets: Sequence[Sequence[str]]) -> None:
    """Log how many prompts are longer than a model's context, if it has a tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    texts = [prompt for own in sets for prompt in own]
    if tokenizer is not None and (note := cut(tokenizer, texts)):
        log.warning(note)


def check_combined(combine: Combine, draws: int, classnorm: bool, learnt: bool) -> None:
    """Raise InputError for a way to combine prompts that does not exist, or that does not fit other
    settings; `learnt` models have no prompts to combine."""
    if combine not in get_args(Combine):
        raise unknown("way to combine prompts", combine, get_args(Combine))
    if draws < 0:
        raise InputError(f"draws is {draws}; it is a number of choices of prompts, 0 for none")
    if classnorm and combine == "max":
        raise InputError("classnorm standardises mean directions; leave out combine=max")
    if learnt and (combine == "max" or draws):
        raise InputError(
            "this model has classes of its own, without prompts; leave out combine and draws"
        )


def nearest_of_class(cosines: Tensor, sizes: Sequence[int]) -> Tensor:
    """The largest cosine of each image with the prompts of each class (N, C); cosines (N, P) are
    sorted by class, of which `sizes` are the numbers of prompts.

    >>> nearest_of_class(torch.tensor([[0.1, 0.5, 0.3]]), [2, 1])
    tensor([[0.5000, 0.3000]])
    """
    return torch.stack([part.amax(1) for part in cosines.split(list(sizes), dim=1)], dim=1)


def drawn_accuracy(
    images: Tensor, prompts: Tensor, sizes: Sequence[int], labels: np.ndarray, draws: int
) -> dict[str, float]:
    """The accuracy with one random prompt for each class, its mean `drawn_top1` and standard
    deviation over `draws` choices; images (N, E), prompts (P, E) sorted by class, labels (N,).

    >>> eye = torch.eye(2)
    >>> drawn_accuracy(eye, eye[[0, 0, 1]], [2, 1], np.array([0, 1]), 5)["drawn_top1"]
    1.0
    """
    rng = generator(0, "evaluation", "prompts")
    starts = np.cumsum(sizes) - sizes
    found = []
    for _ in range(draws):
        chosen = torch.from_numpy(starts + rng.integers(np.array(sizes)))
        found.append(float((ranks(images, prompts[chosen], labels) <= 1).mean()))
    return {
        "drawn_top1": float(np.mean(found)),
        "drawn_top1_std": float(np.std(found)),
        "chance_drawn_top1": 1 / len(sizes),
    }
