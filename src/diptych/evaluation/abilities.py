"""What suites ask of a model, beside the preprocessing that makes its pixels: one method an ability.

A suite's card names the methods that it calls; a model that has them can be measured, whatever its class. `images` are
pixels (N, 3, H, W), uint8, as `model.preprocess` makes them; answers are on any device, suites take them to the CPU.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from diptych.data.pictures import Preprocess
from diptych.towers.encoded import Encoded


class Embeds(Protocol):
    """embed: pictures and texts as unit vectors (N, E) of one space."""

    preprocess: Preprocess

    def embed_images(self, images: Tensor, *, batch_size: int) -> Tensor: ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor: ...


class Projects(Protocol):
    """project: pictures in the space of `embed` (N, E), with the lengths that they had before they were made unit."""

    preprocess: Preprocess

    def project_images(self, images: Tensor, *, batch_size: int) -> Tensor: ...


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


class Heats(Protocol):
    """heat: cosines (N, K, h, w) of K texts with the positions of pictures."""

    preprocess: Preprocess

    def heat(self, images: Tensor, texts: Sequence[str], *, batch_size: int) -> Tensor: ...


class EmbedsRegions(Protocol):
    """embed_regions: boxes, as shares of the picture, with vectors (N, R, E) and scores (N, R, C) of `classes`.
    `detect`: those that are chosen in each picture, likeliest first: `boxes` (n, 4), `classes` and `scores` (n,)."""

    preprocess: Preprocess
    classes: Sequence[str]

    def set_classes(self, names: Sequence[str]) -> None: ...

    def embed_regions(self, images: Tensor, *, batch_size: int) -> Any: ...

    def detect(self, images: Tensor, *, batch_size: int) -> Sequence[Any]: ...


class Draws(Protocol):
    """draw: so many pictures of a class by its name."""

    def set_classes(self, names: Sequence[str]) -> None: ...

    def draw(self, name: str, count: int, *, guidance: float, seed: int) -> Sequence[Image.Image]: ...


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
