"""`Delivered`: what a method hands over that is more than a dual encoder or a language model
alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class Validation:
    """How a model is measured while it trains: a suite, its settings, and how the numbers that are
    told begin."""

    suite: str
    names: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)


class Delivered(nn.Module):
    """A dual encoder (`encoder`), a language model (`lm`) or both, and what was learnt beside them.

    model.json describes these two, and a loader builds them first; the rest follows from the
    method's options, and from the plain values that `extra_state` gives. A subclass says how it is
    used in `to_model`.
    """

    reads: ClassVar[tuple[str, ...]] = ("images.main",)
    """Fields of a source that it is validated on."""

    def extra_state(self) -> dict[str, Any]:
        """Plain values that model.json keeps beside the towers: names of classes and the like."""
        return {}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        """Take what `extra_state` gave, before the weights are loaded: shapes may hang on it."""

    def merge(self) -> None:
        """Put what was learnt beside weights into them, where it can be: called once the weights
        are loaded."""

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        """What takes images and strings around it, as `diptych.load` returns it. Its attribute
        `validation` is a `Validation`."""
        raise NotImplementedError
