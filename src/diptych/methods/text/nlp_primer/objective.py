"""Base of the objectives: an encoder of texts, trained by one of them."""

from dataclasses import dataclass
from typing import ClassVar

from diptych.methods.families.sentences import SentenceConfig, Sentences
from diptych.methods.text.nlp_primer.taxonomy import Row


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(SentenceConfig):
    """Options of all objectives. The default head is none: only SimCSE's authors train with one."""

    head: bool = False


class Objective(Sentences):
    """An objective of the catalogue. A subclass has `row`, `Config`, and what a method has: `views`,
    `encode`, `loss`."""

    row: ClassVar[Row]
    Config = ObjectiveConfig
