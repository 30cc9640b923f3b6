"""Prompts of classes, stored as text: the result of a search over prompts, for any model to read.

    t_c = unit( mean_k unit(text(p_ck)) )

A unit is a pair of a name and a sentence, which is "" for the name alone. Its prompts are all
templates filled with the name, each followed by the sentence. A class without units has its name in
the templates.

Dimensions: C classes, P prompts of all classes, E embedding.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diptych.data.templates import checked, filled
from diptych.data.tokenizers import Tokenizer, by_length
from diptych.dtypes import at_least_float32
from diptych.errors import InputError, some
from diptych.models.class_names import mean_directions, plainly
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


@dataclass(frozen=True)
class ClassPrompts:
    """Templates for any name, and the units of the classes that have their own.

    >>> found = ClassPrompts(("a {}", "one {}"), {"cat": (("kitten", "it is red"),)})
    >>> found.of("cat"), found.of("bus")
    (('a kitten it is red', 'one kitten it is red'), ('a bus', 'one bus'))
    """

    templates: tuple[str, ...]
    units: Mapping[str, tuple[Unit, ...]] = field(default_factory=dict)

    @classmethod
    def of_sentences(cls, sentences: Mapping[str, Sequence[str]]) -> "ClassPrompts":
        """Prompts that are whole sentences, at least one for each class.

        >>> ClassPrompts.of_sentences({"cat": ["it purrs", "one cat"]}).of("cat")
        ('it purrs', 'one cat')
        """
        units = {name: tuple(("", text) for text in own) for name, own in sentences.items()}
        return cls(("{}",), units)

    def of(self, name: str) -> tuple[str, ...]:
        """All prompts of a class: those of its units, or of its name alone where it has none."""
        units = self.units.get(name, ((name, ""),))
        return tuple(prompt for unit in units for prompt in prompts(unit, self.templates))

    def for_classes(self, names: Sequence[str]) -> "ClassPrompts":
        """The same prompts with the units under these names, which are compared as in prompts and
        without case.

        Templates alone fit any names. Raises InputError if there are units, and not of exactly
        these classes.
        """
        if not self.units:
            return self
        own = {plainly(name): units for name, units in self.units.items()}
        asked = {plainly(name): name for name in names}
        extra = [name for name in self.units if plainly(name) not in asked]
        lacking = [name for plain, name in asked.items() if plain not in own]
        if extra or lacking:
            raise InputError(
                f"the prompts are of other classes than the data: they have {some(extra) or 'none'} besides, and lack "
                f"{some(lacking) or 'none'}; search for prompts of the classes of the data, or name data of those that "
                "have prompts, with :classes=NAME+NAME"
            )
        return replace(self, units={name: own[plain] for plain, name in asked.items()})

    def warn_without_units(self, names: Sequence[str]) -> None:
        """Log the classes without units, if others have some."""
        without = [name for name in names if name not in self.units]
        if self.units and without:
            more = ", …" if len(without) > 3 else ""
            log.warning(
                "no sentences were chosen for %s%s (%d of %d classes): the name stands in the templates alone",
                ", ".join(without[:3]),
                more,
                len(without),
                len(names),
            )

    def features(self, encoder: DualEncoder, tokenizer: Tokenizer, names: Sequence[str]) -> Tensor:
        """The embeddings of classes by an encoder (C, E), unit vectors, without gradient."""
        sets = [self.of(name) for name in names]
        texts = [prompt for own in sets for prompt in own]
        if note := cut(tokenizer, texts):
            log.warning(note)
        vectors = embed(encoder, tokenizer, texts)
        return mean_directions(vectors, [len(own) for own in sets], encoder.shares)

    def digest(self) -> str:
        """12 hexadecimal digits that change with any prompt.

        >>> ClassPrompts(("a {}",)).digest() == ClassPrompts(("one {}",)).digest()
        False
        """
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the templates, and for each class its sentences by the name that they are
        used with."""
        sentences: dict[str, dict[str, list[str]]] = {}
        for class_name, units in self.units.items():
            by_name = sentences.setdefault(class_name, {})
            for name, sentence in units:
                by_name.setdefault(name, []).append(sentence)
        return {"templates": list(self.templates), "prompts": sentences}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClassPrompts":
        """The inverse of `to_dict`. Raises InputError for a template without its {}."""
        units = {}
        for class_name, by_name in values["prompts"].items():
            units[class_name] = tuple(
                (name, sentence) for name, own in by_name.items() for sentence in own
            )
        return cls(checked(values["templates"], "the prompts"), units)


def cut(tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    """A warning of the texts that the context cuts; "" if there is none."""
    different = set(texts)
    count = sum(tokenizer.lost(text) > 0 for text in different)
    if not count:
        return ""
    return f"{count} of {len(different)} prompts are longer than the context of {tokenizer.context} and are cut"


@torch.no_grad()
def embed(encoder: DualEncoder, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """The embeddings of texts (P, E), unit vectors, encoded in batches of similar length."""
    device = next(encoder.parameters()).device
    batches, order = by_length(tokenizer.encode(texts), tokenizer, _BATCH)
    with evaluating(encoder):
        embeddings = [
            encoder.embed_texts(ids.to(device), lengths.to(device)) for ids, lengths in batches
        ]
    return at_least_float32(torch.cat(embeddings)[order.to(device)])
