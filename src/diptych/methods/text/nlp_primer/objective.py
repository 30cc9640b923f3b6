"""Base of the objectives: an encoder of texts, trained by one of them."""

from dataclasses import dataclass
from typing import Any

from diptych.errors import InputError
from diptych.methods.families.sentences import SentenceConfig
from diptych.methods.text.nlp_primer.lessons import Warned
from diptych.towers.nn.parts import freeze


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(SentenceConfig):
    """Options of all objectives. The default head is none: only SimCSE's authors train with one."""

    head: bool = False


class Objective(Warned):
    """An objective of the catalogue. A subclass has `row`, `Config`, and what a method has: `views`,
    `encode`, `loss`."""

    Config = ObjectiveConfig

    def without_projection(self) -> None:
        """Train the tower alone: what comes behind its tokens stays as it is.

        Raises InputError if that has new weights, which would stay random.
        """
        text: Any = self.model.text
        projection: Any = self.model.text_projection
        freeze(projection, getattr(text, "cls", None))
        if self.make.fresh and list(projection.parameters()):
            raise InputError(
                f"{self.row.title} trains the text tower alone, and its vectors of {text.width} numbers would pass "
                f"a random map to {self.model.embed_dim}; give --embed-dim {text.width}"
            )
