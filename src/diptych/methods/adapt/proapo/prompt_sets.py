"""A zero-shot classifier with a set of prompts for each class, the result of a search over prompts.

    t_c = unit( mean_k unit(text(p_ck)) )

A unit is a pair of a name and a sentence, which is "" for the name alone. Its prompts are all
templates filled with the name, each followed by the sentence. Dimensions: C classes, P prompts of
all classes, E embedding.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.data.templates import filled
from diptych.data.tokenizers import Tokenizer, by_length
from diptych.dtypes import at_least_float32
from diptych.models.class_names import mean_directions
from diptych.models.classifier import Classifier
from diptych.models.model import evaluating
from diptych.towers.dual import DualEncoder

Unit = tuple[str, str]

log = logging.getLogger(__name__)
_BATCH = 256  # prompts encoded at once


def prompts(unit: Unit, templates: Sequence[str]) -> tuple[str, ...]:
    """The prompts of a unit, one for each template.

    >>> prompts(("cat", "a cat has whiskers."), ["a {}.", "one {}."])
    ('a cat. a cat has whiskers.', 'one cat. a cat has whiskers.')
    """
    name, sentence = unit
    return tuple(f"{filled(template, name)} {sentence}".strip() for template in templates)


class PromptSets(Classifier):
    """A classifier by prompts that are stored as text: templates for any name, and units for some
    classes.

    Nothing is trained.

    >>> import diptych
    >>> tiny = diptych.load("tiny")
    >>> sets = PromptSets(tiny.encoder, tiny.tokenizer)
    >>> sets.choose(["a {}", "one {}"], {"cat": [("kitten", "it is red")]})
    >>> sets.set_classes(["bus", "cat"])
    >>> [sets.prompts_of(name) for name in sets.classes]
    [('a bus', 'one bus'), ('a kitten it is red', 'one kitten it is red')]
    >>> sets.text_features().shape
    torch.Size([2, 192])
    """

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer, template: str = "a photo of a {}."
    ):
        super().__init__(encoder, tokenizer, template)
        self.templates: tuple[str, ...] = (template,)
        self.units: dict[str, tuple[Unit, ...]] = {}
        self._text_features: Tensor | None = None  # computed when they are first read

    def choose(
        self, templates: Sequence[str], units: Mapping[str, Sequence[Unit]] | None = None
    ) -> None:
        """Set the templates, and the units of the classes that have their own."""
        self.templates = tuple(templates)
        self.units = {name: tuple(own) for name, own in (units or {}).items()}
        self._text_features = None

    def prompts_of(self, name: str) -> tuple[str, ...]:
        """All prompts of a class: those of its units, or of its name alone where it has none."""
        units = self.units.get(name, ((name, ""),))
        return tuple(prompt for unit in units for prompt in prompts(unit, self.templates))

    def set_classes(self, names: Sequence[str]) -> None:
        """Name the classes; log a warning for those without units where other classes have some."""
        super().set_classes(names)
        without = [name for name in self.classes if name not in self.units]
        if self.units and without:
            more = ", …" if len(without) > 3 else ""
            log.warning(
                "no sentences were chosen for %s%s (%d of %d classes): the name stands in the templates alone",
                ", ".join(without[:3]),
                more,
                len(without),
                len(self.classes),
            )

    def _name(self, classes: tuple[str, ...], rows: Sequence[Sequence[int]]) -> None:
        super()._name(classes, rows)
        self._text_features = None

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """The embeddings of texts (P, E), unit vectors, encoded in batches."""
        batches, order = by_length(self.tokenizer.encode(texts), self.tokenizer, _BATCH)
        device = self.ids.device
        with evaluating(self.encoder):
            embeddings = [
                self.encoder.embed_texts(ids.to(device), lengths.to(device))
                for ids, lengths in batches
            ]
        return at_least_float32(torch.cat(embeddings)[order.to(device)])

    def text_features(self) -> Tensor:
        """The class embeddings (C, E), unit vectors; computed once, since no weight changes."""
        if self._text_features is None or self._text_features.device != self.ids.device:
            sets = [self.prompts_of(name) for name in self.classes]
            with torch.inference_mode(
                False
            ):  # an inference tensor could not take part in a backward pass later
                embeddings = self.embed([prompt for own in sets for prompt in own])
                self._text_features = mean_directions(embeddings, [len(own) for own in sets])
        return self._text_features

    def extra_state(self) -> dict[str, Any]:
        """The templates, and for each class its sentences by the name that they are used with."""
        sentences: dict[str, dict[str, list[str]]] = {}
        for class_name, units in self.units.items():
            by_name = sentences.setdefault(class_name, {})
            for name, sentence in units:
                by_name.setdefault(name, []).append(sentence)
        return {**super().extra_state(), "templates": list(self.templates), "prompts": sentences}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        """The inverse of `extra_state`."""
        units: dict[str, list[Unit]] = {}
        for class_name, by_name in values["prompts"].items():
            units[class_name] = [
                (name, sentence) for name, own in by_name.items() for sentence in own
            ]
        self.choose(values["templates"], units)
        super().load_extra_state(values)
