"""Visualness: how far a text describes something visible, measured by its distance to an image of
noise.

    S(t) = 1 - <x_null, t>        visual where S > threshold

x_null is the unit vector of the NULL image, whose random pixels are drawn once and stored with the
model; t is that of the text.

Dimensions: N texts, S pixels a side, E embedding.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.images import Preprocess, noise_image
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.metrics import best_threshold
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import Model, Progress
from diptych.towers.dual import DualEncoder
from diptych.towers.tower import ImageTower


class Visualness(Delivered):
    """A dual encoder with its NULL image `null` (3, S, S), uint8, and the threshold of its scores,
    inf until it is calibrated."""

    null: Tensor
    threshold: Tensor

    def __init__(self, encoder: DualEncoder, null: Tensor, label: str | None = None):
        super().__init__()
        self.encoder = encoder
        self.label = label
        self.register_buffer("null", null.to(torch.get_default_device()))
        self.register_buffer("threshold", torch.tensor(math.inf))

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the label is known once it is made
        """Fields of a source that validation reads."""
        return "texts.*", "images.main" if self.label is None else f"labels.{self.label}"

    def null_vector(self) -> Tensor:
        """The unit vector (E,) of the NULL image."""
        return self.encoder.embed_images(self.null[None])[0]

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "VisualnessModel":
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return VisualnessModel(self, tokenizer, preprocess, name=name)


class VisualnessModel(Model):
    """A model that embeds like any other and also scores how visual a text is. `of` wraps a model
    that was not trained for it.

    >>> import diptych
    >>> model = VisualnessModel.of(diptych.load("tiny"))
    >>> texts = ["a small red cat on grass", "two blue keys", "nobody knows why", "it is a matter of principle"]
    >>> model.score(texts).shape
    torch.Size([4])
    >>> threshold = model.calibrate(texts, [True, True, False, False])
    >>> model.is_visual(texts).dtype
    torch.bool
    """

    def __init__(
        self, visual: Visualness, tokenizer: Tokenizer | None, preprocess: Preprocess, *, name: str
    ):
        super().__init__(visual.encoder, tokenizer, preprocess, name=name, delivered=visual)
        self.visual = visual
        label = {} if visual.label is None else {"label": visual.label}
        self.validation = Validation("visualness", ("auroc", "macro_f1"), label)

    @classmethod
    def of(cls, model: Model, seed: int = 0) -> "VisualnessModel":
        """Return a model that was not trained with a NULL image, with the NULL image of `seed` and
        without a threshold."""
        visual = Visualness(model.encoder, noise_image(model.preprocess, seed)).to(model.device)
        return cls(visual, model.tokenizer, model.preprocess, name=model.name)

    @property
    def null(self) -> Tensor:
        """The pixels (3, S, S) of the NULL image."""
        return self.visual.null

    @property
    def threshold(self) -> float | None:
        """The score above which a text is visual; None before calibration."""
        value = float(self.visual.threshold)
        return value if math.isfinite(value) else None

    def score(
        self, texts: str | Sequence[str], *, batch_size: int = 256, progress: Progress | None = None
    ) -> Tensor:
        """Return S (N,), float32 in [0, 2], larger for visual texts. Raises InputError as
        `embed_texts` does."""
        [anchor] = self.embed_images(self.null[None])
        return 1 - self.embed_texts(texts, batch_size=batch_size, progress=progress) @ anchor

    def is_visual(
        self, texts: str | Sequence[str], threshold: float | None = None, **options: Any
    ) -> Tensor:
        """Return whether S is above a threshold (N,), by default the model's; keywords go to
        `score`.

        Raises InputError if there is no threshold.
        """
        threshold = self.threshold if threshold is None else threshold
        if threshold is None:
            raise InputError(
                f"{self.name} has no threshold, which depends on the model and on what the texts are "
                "about; calibrate it on some whose kind is known, or give one"
            )
        return self.score(texts, **options) > threshold

    def calibrate(
        self, texts: Sequence[str], visual: Sequence[bool] | np.ndarray, **options: Any
    ) -> float:
        """Find the best threshold on texts that are known to be visual or not (`best_threshold`),
        and store it."""
        if len(texts) != len(visual):
            raise InputError(
                f"{len(texts)} texts and {len(visual)} truths do not fit; give one for each"
            )
        self.visual.threshold.fill_(
            best_threshold(self.score(texts, **options).numpy(), np.asarray(visual))
        )
        return float(self.visual.threshold)
