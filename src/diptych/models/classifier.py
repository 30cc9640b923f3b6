"""Classifiers of named classes on a dual encoder, the result of methods that adapt to a few
labelled images.

    logits_c = s <x, t_c>

x is an image's unit vector, t_c that of class c, s the encoder's scale. Methods learn how x and t_c
are computed; the classes can be set afterwards, new ones included.

Dimensions: N images, C classes, L tokens of a prompt, D tower width, E embedding.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.templates import checked
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.errors import InputError
from diptych.models.adapted import ClassifierModel
from diptych.models.class_names import check_names, prompt_ids
from diptych.models.class_prompts import ClassPrompts
from diptych.models.delivered import Delivered
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze
from diptych.towers.tower import ImageTower


class Classifier(Delivered):
    """A dual encoder with named classes and further learned parts; `frozen` freezes the encoder's
    weights.

    A subclass overrides `text_features` or `image_features`; or, if prompts depend on the image,
    `class_features` and `logits`.
    """

    ids: Tensor
    lengths: Tensor
    fixed: ClassVar[bool] = True
    """Whether `logits` uses `text_features`, which are the same for every image."""
    independent: bool = True
    """Whether the logit of a class does not depend on the other classes."""

    prompts: ClassPrompts | None
    """What the classes are embedded by in place of `template`, if anything."""

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        template: str = "a photo of a {}.",
        *,
        frozen: bool = True,
    ):
        super().__init__()
        checked([template], "the prompts")
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.template = template
        self.classes: tuple[str, ...] = ()
        self.label = ""  # of the training data
        self.prompts = None
        self._still: Tensor | None = None  # cached classes, if no training step changes them
        self._by_prompts: Tensor | None = None  # the classes by `prompts`; no step changes them
        self.register_buffer("ids", torch.empty(0, 0, dtype=torch.int64), persistent=False)
        self.register_buffer("lengths", torch.empty(0, dtype=torch.int64), persistent=False)
        if frozen:
            freeze(encoder)

    @property
    def image(self) -> ImageTower:
        """The image tower, which holds the preprocessing."""
        return self.encoder.image

    def use_prompts(self, prompts: ClassPrompts) -> None:
        """Embed the classes by these prompts in place of the template, with the text tower
        frozen."""
        self.prompts = prompts
        self._by_prompts = None

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes; log a warning for those that lack sentences where others have some.

        Raises InputError as `check_names` does, and for a name whose prompt by the template the
        context truncates.
        """
        classes = check_names(names)
        self._name(classes, prompt_ids(self.tokenizer, self.template, classes))
        if self.prompts is not None:
            self.prompts.warn_without_units(classes)

    def _name(self, classes: tuple[str, ...], rows: Sequence[Sequence[int]]) -> None:
        """Store the classes and the ids of their prompts."""
        ids, lengths = pad_batch(rows, self.tokenizer)
        self.classes, self.ids, self.lengths = (
            classes,
            ids.to(self.ids.device),
            lengths.to(self.ids.device),
        )
        self._still = None
        self._by_prompts = None

    def image_features(self, x: Tensor) -> Tensor:
        """Embed images (N, 3, H, W) as unit vectors (N, E)."""
        return self.encoder.embed_images(x)

    def text_features(self) -> Tensor:
        """Embed the classes as unit vectors (C, E)."""
        if self.prompts is None:
            return self.encoder.embed_texts(self.ids, self.lengths)
        if self._by_prompts is None or self._by_prompts.device != self.ids.device:
            # an inference tensor could not take part in a backward pass later
            with torch.inference_mode(False):
                self._by_prompts = self.prompts.features(self.encoder, self.tokenizer, self.classes)
        return self._by_prompts

    def class_features(self, x: Tensor) -> Tensor:
        """Embed the classes for each of the images (N, 3, H, W), as unit vectors (N, C, E)."""
        return self.text_features().expand(len(x), -1, -1)

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        """Logits (N, C) of images (N, 3, H, W); `texts` (C, E) are the classes, if `fixed`."""
        assert texts is not None
        return self.judged(self.image_features(x), texts)

    def judged(self, image: Tensor, texts: Tensor) -> Tensor:
        """Logits (N, C) of unit vectors of images (N, E) and of classes (C, E)."""
        return self.encoder.logit_scale() * image.to(texts.dtype) @ texts.T

    def of_vectors(self, image: Tensor) -> Tensor:
        """Logits (N, C) of `image_features` (N, E), if classes are `fixed`."""
        return self.judged(image, self._classes_now())

    def forward(self, x: Tensor, texts: Tensor | None = None) -> Tensor:
        """Logits (N, C) of images (N, 3, H, W).

        `texts` are `text_features`, if computed already. Raises InputError if no classes are set.
        """
        if not self.classes:
            raise InputError(
                "the classifier knows no classes; name them first, with set_classes or --names"
            )
        if texts is None and self.fixed:
            texts = self._classes_now()
        return self.logits(x, texts)

    def _classes_now(self) -> Tensor:
        """`text_features`, computed once for all training steps if no step changes them."""
        still = self._still
        if still is not None and still.device == self.ids.device:
            return still
        texts = self.text_features()
        if self.training and torch.is_grad_enabled() and not texts.requires_grad:
            self._still = texts.detach()
        return texts

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode and clear the cached classes, since weights may have been loaded."""
        self._still = None
        return super().train(mode)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the label is known once it is made
        """The fields that a validation source needs."""
        return "images.main", f"labels.{self.label}"

    def extra_state(self) -> dict[str, Any]:
        prompts = {} if self.prompts is None else self.prompts.to_dict()
        return {"classes": list(self.classes), **prompts}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        if "prompts" in values:
            self.use_prompts(ClassPrompts.from_dict(values))
        if values["classes"]:
            self.set_classes(values["classes"])

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:

        assert preprocess is not None, "a dual encoder has a preprocessing"
        return ClassifierModel(self, preprocess, name=name)
