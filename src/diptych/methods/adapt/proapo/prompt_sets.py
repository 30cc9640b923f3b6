"""A zero-shot classifier with a set of prompts for each class (`models.class_prompts`), the result of
a search over prompts. Nothing is trained.

Dimensions: C classes, P prompts of all classes, E embedding.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from diptych.data.tokenizers import Tokenizer
from diptych.models.class_prompts import ClassPrompts, Unit, embed
from diptych.models.classifier import Classifier
from diptych.towers.dual import DualEncoder


class PromptSets(Classifier):
    """A classifier by prompts that are stored as text: templates for any name, and units for some
    classes.

    >>> import diptych
    >>> tiny = diptych.load("tiny")
    >>> sets = PromptSets(tiny.encoder, tiny.tokenizer)
    >>> sets.choose(["a {}", "one {}"], {"cat": [("kitten", "it is red")]})
    >>> sets.set_classes(["bus", "cat"])
    >>> [sets.prompts.of(name) for name in sets.classes]
    [('a bus', 'one bus'), ('a kitten it is red', 'one kitten it is red')]
    >>> sets.text_features().shape
    torch.Size([2, 192])
    """

    prompts: ClassPrompts

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer, template: str = "a photo of a {}."
    ):
        super().__init__(encoder, tokenizer, template)
        self.choose([template])

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates of all prompts."""
        return self.prompts.templates

    @property
    def units(self) -> Mapping[str, tuple[Unit, ...]]:
        """The units of the classes that have their own."""
        return self.prompts.units

    def choose(
        self, templates: Sequence[str], units: Mapping[str, Sequence[Unit]] | None = None
    ) -> None:
        """Set the templates, and the units of the classes that have their own."""
        own = {name: tuple(each) for name, each in (units or {}).items()}
        self.use_prompts(ClassPrompts(tuple(templates), own))

    def embed(self, texts: Sequence[str]) -> Tensor:
        """The embeddings of texts (P, E), unit vectors, encoded in batches."""
        return embed(self.encoder, self.tokenizer, texts)
