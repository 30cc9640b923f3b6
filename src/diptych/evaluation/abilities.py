"""What suites ask of a model, beside the preprocessing that makes its pixels: one method an ability.

A suite's card names the methods that it calls; a model that has them can be measured, whatever its class. `images` are
pixels (N, 3, H, W), uint8, as `model.preprocess` makes them; answers are on any device, suites take them to the CPU.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from diptych.data.pictures import Preprocess
from diptych.towers.encoded import Encoded


class Embeds(Protocol):
    """embed: pictures and texts as unit vectors (N, E) of one space."""

    preprocess: Preprocess

    def embed_images(self, images: Tensor, *, batch_size: int) -> Tensor: ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor: ...


class ClassLogits(Protocol):
    """class_logits: logits (N, C) over the classes that `set_classes` named; `classes` are their names."""

    preprocess: Preprocess
    classes: Sequence[str]

    def set_classes(self, names: Sequence[str]) -> None: ...

    def class_logits(self, images: Tensor, *, batch_size: int) -> Tensor: ...


class Represents(Protocol):
    """represent: what the image tower gives before the projection, tokens (N, T, D) on their grid and pooled (N, D)."""

    preprocess: Preprocess

    def represent(self, images: Tensor, *, batch_size: int) -> Encoded: ...


class Matches(Protocol):
    """match: how well picture i goes with text i (N,); larger is better, and the scale is the model's own."""

    preprocess: Preprocess

    def match(self, images: Tensor, texts: Sequence[str], *, batch_size: int) -> Tensor: ...


class Generates(Protocol):
    """generate: a text for each picture; with prompts (questions) an answer to prompt i about picture i."""

    preprocess: Preprocess

    def generate(self, images: Tensor, prompts: Sequence[str] | None = None, *, batch_size: int) -> list[str]: ...


class LogProb(Protocol):
    """log_prob: the log-probability (N,), summed over tokens, of text i after prompt i and picture i."""

    preprocess: Preprocess

    def log_prob(
        self, images: Tensor, texts: Sequence[str], prompts: Sequence[str] | None = None, *, batch_size: int
    ) -> Tensor: ...


class Composes(Protocol):
    """compose: what is kept of pictures to find them, unit vectors (N, K, E), and a query (N, E) of picture i and
    instruction i; a picture scores the largest of its K dot products with it."""

    preprocess: Preprocess

    def index(self, images: Tensor, *, batch_size: int) -> Tensor: ...

    def compose(self, images: Tensor, texts: Sequence[str], *, batch_size: int) -> Tensor: ...
