"""`Delivered`: the result of a method that is more than a dual encoder or a language model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.towers.dual import DualEncoder


@dataclass(frozen=True)
class Validation:
    """The validation of a model in training: a suite, its settings, and the prefixes of the
    reported metrics."""

    suite: str
    names: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)


class Delivered(nn.Module):
    """A dual encoder (`encoder`), a language model (`lm`), both or neither, and further learned
    parts.

    model.json describes encoder and language model, which a loader builds first; the rest is built
    from the method's options and the plain values of `extra_state`. `preprocess`, or that of the
    tower `image`, prepares its images. A subclass implements `to_model`.
    """

    reads: ClassVar[tuple[str, ...]] = ("images.main",)
    """The fields that a validation source needs."""

    spaces: tuple[str, ...] = ()
    """The names of several embedding spaces, the default first."""

    def space(self, name: str) -> DualEncoder:
        """The dual encoder of one of `spaces`, made of this module's parts."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """Plain values to store in model.json, such as class names."""
        return {}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        """Load the values of `extra_state`, before the weights, whose shapes may depend on them."""

    def current(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The entries of a saved file as this version has them, before they are loaded."""
        return dict(state)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        """The model for `diptych.load`, which accepts images and strings.

        It has `name`, `validation` (a `Validation`), `delivered` (this module), `to(device)`, and a
        method for each of its abilities, as `Model` does for a dual encoder.
        """
        raise NotImplementedError
