"""Classes told by sets of whole sentences: what a search over prompts delivers.

    t_c = unit( mean_k unit(text(p_ck)) )

A unit is a name and a sentence, "" for the name alone; its prompts are all templates with the name, and the sentence
behind. Dimensions: C classes, P prompts of all classes, E embedding.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.data.templates import filled
from diptych.data.tokenizers import Tokenizer, by_length
from diptych.dtypes import wide
from diptych.models.class_names import mean_directions
from diptych.models.classifier import Classifier
from diptych.models.model import evaluating
from diptych.towers.dual import DualEncoder

Unit = tuple[str, str]

log = logging.getLogger(__name__)
_CHUNK = 256  # prompts that are encoded at once


def prompts(unit: Unit, templates: Sequence[str]) -> tuple[str, ...]:
    """The prompts of a unit.

    >>> prompts(("cat", "a cat has whiskers."), ["a {}.", "one {}."])
    ('a cat. a cat has whiskers.', 'one cat. a cat has whiskers.')
    """
    name, sentence = unit
    return tuple(f"{filled(template, name)} {sentence}".strip() for template in templates)


class PromptSets(Classifier):
    """Templates that any name stands in, and for some classes units of their own, all as text. Nothing is trained.

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

    def __init__(self, encoder: DualEncoder, tokenizer: Tokenizer, template: str = "a photo of a {}."):
        super().__init__(encoder, tokenizer, template)
        self.templates: tuple[str, ...] = (template,)
        self.units: dict[str, tuple[Unit, ...]] = {}
        self._vectors: Tensor | None = None

    def choose(self, templates: Sequence[str], units: Mapping[str, Sequence[Unit]] | None = None) -> None:
        """Take templates, and the units of classes that have their own."""
        self.templates = tuple(templates)
        self.units = {name: tuple(given) for name, given in (units or {}).items()}
        self._vectors = None

    def prompts_of(self, name: str) -> tuple[str, ...]:
        """What tells a class: its units, or its name alone, in all templates."""
        units = self.units.get(name, ((name, ""),))
        return tuple(prompt for unit in units for prompt in prompts(unit, self.templates))

    def set_classes(self, names: Sequence[str]) -> None:
        """Name the classes; a warning tells which have the templates alone, where others have units of their own."""
        super().set_classes(names)
        plain = [name for name in self.classes if name not in self.units]
        if self.units and plain:
            more = ", …" if len(plain) > 3 else ""
            log.warning("no sentences were chosen for %s%s (%d of %d classes): the name stands in the templates alone",
                        ", ".join(plain[:3]), more, len(plain), len(self.classes))  # fmt: skip

    def _name(self, classes: tuple[str, ...], rows: Sequence[Sequence[int]]) -> None:
        super()._name(classes, rows)
        self._vectors = None

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (P, E), some at a time."""
        batches, places = by_length(self.tokenizer.encode(texts), self.tokenizer, _CHUNK)
        device = self.ids.device
        with evaluating(self.encoder):
            found = [self.encoder.embed_texts(ids.to(device), lengths.to(device)) for ids, lengths in batches]
        return wide(torch.cat(found)[places.to(device)])

    def text_features(self) -> Tensor:
        """The classes as unit vectors (C, E), computed once: nothing is trained that would change them."""
        if self._vectors is None or self._vectors.device != self.ids.device:
            sets = [self.prompts_of(name) for name in self.classes]
            with torch.inference_mode(False):  # so that they may meet gradients later
                vectors = self.embed([prompt for each in sets for prompt in each])
                self._vectors = mean_directions(vectors, [len(each) for each in sets])
        return self._vectors

    def extra_state(self) -> dict[str, Any]:
        by_name: dict[str, dict[str, list[str]]] = {}
        for name, units in self.units.items():
            for called, sentence in units:
                by_name.setdefault(name, {}).setdefault(called, []).append(sentence)
        return {**super().extra_state(), "templates": list(self.templates), "prompts": by_name}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        units = {
            name: [(called, sentence) for called, sentences in given.items() for sentence in sentences]
            for name, given in values["prompts"].items()
        }
        self.choose(values["templates"], units)
        super().load_extra_state(values)
