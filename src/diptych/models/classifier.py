"""Classifiers of named classes on a dual encoder: what methods deliver that adapt a model to a few
labelled images.

    logits_c = s <x, t_c>

x is an image's unit vector, t_c that of class c, s the encoder's scale. What is learnt is how x and
t_c come about; the classes are named afterwards, new names included.

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
from diptych.models.delivered import Delivered
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze
from diptych.towers.tower import ImageTower


class Classifier(Delivered):
    """A dual encoder whose classes are named, and what is learnt beside it; `frozen` keeps its own
    weights as they are.

    A subclass overrides `text_features`, `image_features`, or, where an image changes the prompts,
    `class_features` and `logits`.
    """

    ids: Tensor
    lengths: Tensor
    fixed: ClassVar[bool] = True
    """Whether `logits` reads `text_features`, which are the same for every image."""
    independent: bool = True
    """Whether the logit of a class is the same whatever other classes are named."""

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
        self.label = ""  # of the data that it was trained on
        self._still: Tensor | None = None  # the classes, where nothing that decides them is trained
        self.register_buffer("ids", torch.empty(0, 0, dtype=torch.int64), persistent=False)
        self.register_buffer("lengths", torch.empty(0, dtype=torch.int64), persistent=False)
        if frozen:
            freeze(encoder)

    @property
    def image(self) -> ImageTower:
        """The image tower, which knows the preprocessing."""
        return self.encoder.image

    def set_classes(self, names: Sequence[str]) -> None:
        """Name the classes. Raises InputError as `check_names` does, and for a name that the
        context cuts."""
        classes = check_names(names)
        self._name(classes, prompt_ids(self.tokenizer, self.template, classes))

    def _name(self, classes: tuple[str, ...], rows: Sequence[Sequence[int]]) -> None:
        """Take the ids of the classes' prompts."""
        ids, lengths = pad_batch(rows, self.tokenizer)
        self.classes, self.ids, self.lengths = (
            classes,
            ids.to(self.ids.device),
            lengths.to(self.ids.device),
        )
        self._still = None

    def image_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> unit vectors (N, E)."""
        return self.encoder.embed_images(x)

    def text_features(self) -> Tensor:
        """The classes as unit vectors (C, E)."""
        return self.encoder.embed_texts(self.ids, self.lengths)

    def class_features(self, x: Tensor) -> Tensor:
        """The classes as each of the images (N, 3, H, W) has them, unit vectors (N, C, E)."""
        return self.text_features().expand(len(x), -1, -1)

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        """Images (N, 3, H, W) and, where they are `fixed`, the classes (C, E) -> logits (N, C)."""
        assert texts is not None
        return self.judged(self.image_features(x), texts)

    def judged(self, image: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors of images (N, E) and of classes (C, E) -> logits (N, C)."""
        return self.encoder.logit_scale() * image.to(texts.dtype) @ texts.T

    def of_vectors(self, image: Tensor) -> Tensor:
        """Images that are `image_features` (N, E) already -> logits (N, C), where classes are
        `fixed`."""
        return self.judged(image, self._classes_now())

    def forward(self, x: Tensor, texts: Tensor | None = None) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, C); `texts` are `text_features`, where they are there
        already. Raises InputError where no class was named."""
        if not self.classes:
            raise InputError(
                "the classifier knows no classes; name them first, with set_classes or --names"
            )
        if texts is None and self.fixed:
            texts = self._classes_now()
        return self.logits(x, texts)

    def _classes_now(self) -> Tensor:
        """`text_features`, computed once for all steps in training where no step changes them."""
        still = self._still
        if still is not None and still.device == self.ids.device:
            return still
        texts = self.text_features()
        if self.training and torch.is_grad_enabled() and not texts.requires_grad:
            self._still = texts.detach()
        return texts

    def train(self, mode: bool = True) -> "Classifier":
        """As of every module; what was kept for training is forgotten, since weights may be loaded
        in between."""
        self._still = None
        return super().train(mode)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the label is known once it is made
        """Fields of a source that it is validated on."""
        return "images.main", f"labels.{self.label}"

    def extra_state(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        if values["classes"]:
            self.set_classes(values["classes"])

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:

        assert preprocess is not None, "a dual encoder has a preprocessing"
        return ClassifierModel(self, preprocess, name=name)
