"""Models whose class embeddings come from training instead of from prompts.

Dimensions: N images, C classes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.delivered import Validation
from diptych.models.model import ImagesLike, Model, Progress, evaluating


class TrainedClassesModel(Model):
    """A model whose class embeddings come from training instead of prompts.

    Image and text embeddings are those of its encoder. `delivered` has `encoder`, `tokenizer`,
    `classes`, `label` and `set_classes`.
    """

    delivered: Any

    def __init__(self, delivered: Any, preprocess: Preprocess, *, name: str):
        super().__init__(
            delivered.encoder, delivered.tokenizer, preprocess, name=name, delivered=delivered
        )
        self.classes = delivered.classes
        self.label = delivered.label

    def set_classes(
        self, names: Sequence[str], templates: Sequence[str] = (), *, batch_size: int = 256
    ) -> None:
        """Set the classes.

        Raises InputError as `delivered.set_classes` does, and for templates, since the prompts are
        those of training.
        """
        if templates:
            raise InputError(
                f"{self.name} was trained with prompts of its own; leave the templates out"
            )
        self.delivered.set_classes(names)
        self.classes = self.delivered.classes

    def segment(self, images: ImagesLike, **options: Any) -> Tensor:
        """Raises InputError: the classifier reads whole images."""
        raise InputError(
            f"{self.name} was trained to classify whole images; segment with the model that it adapts"
        )


class ClassifierModel(TrainedClassesModel):
    """A model adapted to named classes: `class_logits` come from its classifier.

    The classes are those that it was trained on, or any others that are set.
    """

    def __init__(self, classifier: Any, preprocess: Preprocess, *, name: str):
        super().__init__(classifier, preprocess, name=name)
        self.classifier = classifier
        self.validation = Validation("zeroshot", ("top1", "top5"), {"label": self.label})

    def class_logits(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Tensor:
        with evaluating(self.classifier), torch.inference_mode():
            texts = (
                self.classifier.text_features() if self.classes and self.classifier.fixed else None
            )
        return self._answers(
            lambda x: self.classifier(x, texts), images, batch_size, exact, progress
        )

    def _answers(
        self,
        answer: Callable[[Tensor], Tensor],
        images: ImagesLike,
        batch_size: int,
        exact: bool,
        progress: Progress | None,
    ) -> Tensor:
        """The classifier's output for images (N, …), float32, on the CPU."""
        batches, count = self._batches(images, batch_size, exact, clips=True)
        found = []
        done = 0
        with evaluating(self.classifier), torch.inference_mode():
            for (pixels,) in batches:
                found.append(at_least_float32(answer(pixels.to(self.device))).cpu())
                done += len(pixels)
                if progress:
                    progress(done, count)
        return torch.cat(found).clone()
