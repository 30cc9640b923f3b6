"""The prompts of classes: templates, those that a run found, or sentences of a file."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.data.descriptions import bank
from diptych.data.sample import Source
from diptych.data.templates import checked
from diptych.errors import located
from diptych.methods.store import read_prompts
from diptych.models.class_prompts import ClassPrompts, cut

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
