"""Classes told by sets of whole sentences: what a search over prompts delivers.

    t_c = unit( mean_k unit(text(p_ck)) )

Dimensions: C classes, P prompts of all classes, E embedding.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.data.tokenizers import Tokenizer, by_length
from diptych.towers.classifier import Classifier, mean_directions
from diptych.towers.dual import DualEncoder
from diptych.towers.model import evaluating

log = logging.getLogger(__name__)
_CHUNK = 256  # prompts that are encoded at once


class PromptSets(Classifier):
    """Templates that any name stands in, and prompts of their own for some classes, both as text. Nothing is trained.

    >>> import diptych
    >>> tiny = diptych.load("tiny")
    >>> sets = PromptSets(tiny.encoder, tiny.tokenizer)
    >>> sets.choose(["a {}", "one {}"], {"cat": ["a cat in the top left."]})
    >>> sets.set_classes(["bus", "cat"])
    >>> [sets.prompts_of(name) for name in sets.classes], sets.text_features().shape
    ([('a bus', 'one bus'), ('a cat in the top left.',)], torch.Size([2, 192]))
    """

    def __init__(self, encoder: DualEncoder, tokenizer: Tokenizer, template: str = "a photo of a {}."):
        super().__init__(encoder, tokenizer, template)
        self.templates: tuple[str, ...] = (template,)
        self.prompts: dict[str, tuple[str, ...]] = {}
        self._vectors: Tensor | None = None

    def choose(self, templates: Sequence[str], prompts: Mapping[str, Sequence[str]] | None = None) -> None:
        """Take templates, and the prompts of classes that have their own."""
        self.templates = tuple(templates)
        self.prompts = {name: tuple(given) for name, given in (prompts or {}).items()}
        self._vectors = None

    def prompts_of(self, name: str) -> tuple[str, ...]:
        """What tells a class: its own prompts, or its name in the templates."""
        return self.prompts.get(name) or tuple(template.replace("{}", name) for template in self.templates)

    def set_classes(self, names: Sequence[str]) -> None:
        """Name the classes; a warning tells which have the templates alone, where others have prompts of their own."""
        super().set_classes(names)
        plain = [name for name in self.classes if name not in self.prompts]
        if self.prompts and plain:
            more = ", …" if len(plain) > 3 else ""
            log.warning("no prompts were chosen for %s%s (%d of %d classes): the name stands in the templates alone",
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
        return torch.cat(found)[places.to(device)].float()

    def text_features(self) -> Tensor:
        """The classes as unit vectors (C, E), computed once: nothing is trained that would change them."""
        if self._vectors is None or self._vectors.device != self.ids.device:
            sets = [self.prompts_of(name) for name in self.classes]
            with torch.inference_mode(False):  # so that they may meet gradients later
                vectors = self.embed([prompt for prompts in sets for prompt in prompts])
                self._vectors = mean_directions(vectors, [len(prompts) for prompts in sets])
        return self._vectors

    def remember(self) -> dict[str, Any]:
        prompts = {name: list(given) for name, given in self.prompts.items()}
        return {**super().remember(), "templates": list(self.templates), "prompts": prompts}

    def recall(self, values: Mapping[str, Any]) -> None:
        self.choose(values["templates"], values["prompts"])
        super().recall(values)
