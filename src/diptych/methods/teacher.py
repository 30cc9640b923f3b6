"""A teacher: a model that a method learns from beside the data, by the spec that `diptych.load`
takes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.views import ImageView, TextView, View
from diptych.errors import InputError
from diptych.methods import store
from diptych.models.model import Model
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Frozen


class Teacher(Frozen):
    """The dual encoder of a spec, frozen, loaded when it is first needed: what training has made is
    loaded without it.

    Raises InputError, once it is needed, where there is no such model, or none of images and texts.

    >>> teacher = Teacher("tiny")
    >>> teacher.model.preprocess.size, list(teacher.state_dict())
    (64, ['checksum'])
    """

    def __init__(self, spec: str):
        super().__init__(None, spec)

    @cached_property
    def model(self) -> Model:
        """The model as `diptych.load` gives it."""
        try:
            model = store.load(self.name)
        except InputError as error:
            raise InputError(f"the teacher cannot be loaded: {error}") from error
        if not isinstance(model, Model) or model.encoder.text is None or model.tokenizer is None:
            raise InputError(
                f"the teacher {self.name} does not embed both images and texts; name a model that does, "
                "such as tiny, a RUN of clip or openclip:NAME/TAG"
            )
        self.hold(model.to(self.checksum.device).encoder)
        return model

    @property
    def module(self) -> DualEncoder:
        return self.model.encoder

    def views(self, image: ImageView, text: TextView) -> Sequence[View]:
        """What the teacher sees where it is not what the student sees: the same crop and the same
        words, named "teacher", at its own size and by its own tokenizer."""
        views: list[View] = []
        if not _alike(image.preprocess, self.model.preprocess):
            preprocess = self.model.preprocess
            views.append(replace(image, preprocess=preprocess, name="teacher", like=image.gives[0]))
        assert self.model.tokenizer is not None, "model refuses one without"
        if text.tokenizer != self.model.tokenizer:
            views.append(
                replace(text, tokenizer=self.model.tokenizer, name="teacher", like=text.gives[0])
            )
        return views

    @torch.no_grad()
    def embed_images(self, batch: Batch) -> Tensor:
        """Unit vectors (B, E) of what `views` gives of the images."""
        return self.module.embed_images(batch.images.get("teacher", batch.image).flat)

    @torch.no_grad()
    def embed_texts(self, batch: Batch) -> Tensor:
        """Unit vectors (B, E) of what `views` gives of the texts."""
        return self.module.embed_texts(*batch.texts.get("teacher", batch.text).flat)


def _alike(one: Preprocess, other: Preprocess) -> bool:
    """Whether two give the same pixels: mean and standard deviation are each tower's own affair."""
    return replace(one, mean=other.mean, std=other.std) == other
