"""Abilities: what a model can do beside embedding, each a method of its class that suites and
commands call.

A suite or command asks `require` before it begins, never which method trained a model. The cards of
methods say which abilities their models have (`able_methods`). The protocols below are the
signatures of abilities that several methods share; a model has an ability if it has the method.

Dimensions: N images or records, K texts, R regions, C classes, E embedding, H x W pixels, h x w
positions.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from diptych.errors import InputError, Missing
from diptych.methods.registry import cards

if TYPE_CHECKING:
    from torch import Tensor

    from diptych.data.sample import EncodedImage
    from diptych.models.model import ImagesLike
    from diptych.towers.encoded import Encoded


class Segments(Protocol):
    def set_classes(self, names: Sequence[str], templates: Sequence[str] = ...) -> None: ...

    def segment(self, images: "ImagesLike", *, batch_size: int = 64) -> "Tensor":
        """The class of each pixel (N, H, W), int64, after `set_classes`; H x W is that of the
        preprocessed image."""
        ...


class SegmentsWhole(Protocol):
    def segment_whole(self, image: "EncodedImage", *, batch_size: int = 16) -> "Tensor":
        """The class of each pixel of a whole image (H, W), int64, after `set_classes`."""
        ...


class Heats(Protocol):
    def heat(
        self, images: "ImagesLike", texts: str | Sequence[str], *, batch_size: int = 64
    ) -> "Tensor":
        """How much each position of an image belongs to each text (N, K, h, w)."""
        ...


class EmbedsRegions(Protocol):
    def embed_regions(
        self, images: "ImagesLike", boxes: Sequence[Any] | None = None, *, batch_size: int = 64
    ) -> "tuple[Tensor, Tensor, Tensor]":
        """Unit vectors (N, R, E) of regions, their boxes (N, R, 4) as shares of the image, and
        which are real (N, R)."""
        ...


class EmbedsRecords(Protocol):
    def embed_records(
        self, images: "ImagesLike", texts: Sequence[str], *, batch_size: int = 64
    ) -> "Tensor":
        """Unit vectors (N, E) of records, an image with its text each."""
        ...


class Fuses(Protocol):
    def fuse(self, images: "ImagesLike", texts: Sequence[str], *, batch_size: int = 64) -> "Tensor":
        """Features (N, D) of image i and text i together, which a classifier reads."""
        ...


class ReadsExamples(Protocol):
    def few_shot(self, images: "ImagesLike", texts: Sequence[str]) -> "ReadsExamples":
        """The model with these images and their texts before each prompt of `generate` and
        `log_prob`."""
        ...


class MatchesLabels(Protocol):
    """What `match` is of a model of texts alone. That of a model of images, `match(images, texts)`,
    gives the scores (N,) of image i with text i."""

    probabilities: str  # "sigmoid" or "softmax": how the logits of a text become probabilities
    label_names: Sequence[str]  # the only labels that it can score; none if it can score any

    def match(
        self, texts: Sequence[str], labels: Sequence[str], *, batch_size: int = 256
    ) -> "Tensor":
        """Logits (N, K) of texts with labels."""
        ...


class Predicts(Protocol):
    def predict(self, images: "ImagesLike", *, batch_size: int = 64) -> "Mapping[str, Tensor]":
        """Named numbers (N,) of each image, such as a risk or an indicator."""
        ...


class RatesAffect(Protocol):
    def affect(self, texts: Sequence[str]) -> "Tensor":
        """The valence, arousal and dominance (N, 3) of each text, NaN for one of which none is known."""
        ...


class Fills(Protocol):
    def fill(
        self, texts: Sequence[str], images: "ImagesLike | None" = None, *, k: int = 5
    ) -> Sequence[Sequence[Sequence[tuple[str, float]]]]:
        """The k likeliest words with their probabilities, for each [MASK] of each text."""
        ...

    def masked_logits(self, ids: "Tensor", lengths: "Tensor") -> "Tensor":
        """The logits (N, L, W) of the word at each place of ids (N, L), some of them masked."""
        ...


class HasHiddenStates(Protocol):
    def hidden_states(self, texts: Sequence[str], *, length: int | None = None) -> "Encoded":
        """The tokens (N, L, D) of texts after the final norm and a mask of the real ones, at most
        `length` of each text."""
        ...


class Reconstructs(Protocol):
    def attentive_mask(
        self,
        images: "ImagesLike",
        texts: str | Sequence[str],
        *,
        share: float | None = None,
        batch_size: int = 64,
    ) -> "Tensor":
        """The patches (N, h, w) bool that text i is about in image i, a share of them."""
        ...

    def reconstruct(
        self,
        images: "ImagesLike",
        texts: str | Sequence[str],
        *,
        hidden: "Tensor | None" = None,
        batch_size: int = 64,
    ) -> "Tensor":
        """Images (N, 3, H, W), from 0 to 1, in which the `hidden` patches (N, h, w) are the model's,
        by default those of `attentive_mask`."""
        ...


class RelatesClasses(Protocol):
    def class_relations(self, nearest: int = 3) -> Sequence[Mapping[str, Any]]:
        """For each `class`: the `open` ones `of` its dimensions, and its `nearest` classes, each with
        its `cosine` and the number of dimensions that are `open` for both."""
        ...


class Applies(Protocol):
    def apply(
        self, images: "ImagesLike" = ..., texts: Sequence[str] = ..., *, batch_size: int = 64
    ) -> "tuple[Tensor, Sequence[str]]":
        """Images (N, 3, H, W), uint8, and texts with the learned change; a uint8 tensor is changed
        at its own size."""
        ...


ABILITIES = frozenset(
    [
        "embed_images",
        "embed_texts",
        "represent",
        "project_images",
        "index",
        "set_classes",
        "class_logits",
        "class_relations",
        "similarity",
        "heat",
        "match",
        "generate",
        "log_prob",
        "fuse",
        "few_shot",
        "summaries",
        "hidden_states",
        "noise_error",
        "noise_probability",
        "compose",
        "detect",
        "draw",
        "route",
        "score",
        "segment",
        "segment_whole",
        "embed_regions",
        "embed_records",
        "predict",
        "affect",
        "fill",
        "reconstruct",
        "apply",
    ]
)
"""All abilities; those that the cards of methods and suites name are among them."""


def able_methods(ability: str) -> str:
    """Return the commands that train a model with an ability, from the cards of all methods, for the
    end of a message. A card has the options of `diptych train`, or a whole command.

    >>> able_methods("compose"), able_methods("embed_images")
    ('train one with `diptych train sprc`', 'name another model')
    """
    flags = {name: card.notes.get("abilities", {}).get(ability) for name, card in cards().items()}
    commands = [f"`{_command(name, flag)}`" for name, flag in flags.items() if flag is not None]
    if commands:
        return f"train one with {' or '.join(commands)}"
    return "name another model"


def _command(method: str, flag: str) -> str:
    return flag if flag.startswith("diptych ") else f"diptych train {method} {flag}".rstrip()


def matches_labels(model: Any) -> bool:
    """Whether a model has the ability of `MatchesLabels`."""
    return hasattr(model, "match") and hasattr(model, "label_names")


def relates_classes(model: Any) -> bool:
    """Whether a model has the ability of `RelatesClasses`, and classes."""
    return hasattr(model, "class_relations") and bool(model.gate_names)


def require(model: Any, ability: str, who: str, name: str | None = None) -> None:
    """Raise InputError, in the name of a suite or command, if a model lacks an ability; `name` is
    how the user calls the model."""
    needs = f"{who} needs a model with {ability}"
    try:
        getattr(model, ability)
    except Missing as error:  # the model itself says why, and what to do
        raise InputError(f"{needs}: {error}") from None
    except AttributeError:
        raise InputError(
            f"{needs}, which {name or type(model).__name__} has not; {able_methods(ability)}"
        ) from None
