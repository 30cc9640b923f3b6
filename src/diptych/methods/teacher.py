"""Frozen models that a method uses beside the data, each given by a spec of `diptych.load`: a
teacher, which it learns from, and a language model."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.views import ImageView, TextView, View
from diptych.data.volumes import AnyPreprocess
from diptych.errors import InputError
from diptych.methods import store
from diptych.models.language import LanguageModel
from diptych.models.model import Model, TextModel
from diptych.models.pretrained.hf_lm import HF_LM
from diptych.models.t5 import EncoderDecoder, is_t5
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Frozen


class Teacher(Frozen):
    """The frozen dual encoder of a spec, loaded when it is first used; a trained model is loaded
    without it.

    When first used, raises InputError if there is no such model or it does not embed both images
    and texts; with `texts_alone`, if it does not embed texts.

    >>> teacher = Teacher("tiny")
    >>> teacher.model.preprocess.size, list(teacher.state_dict())
    (64, ['checksum'])
    """

    def __init__(self, spec: str, *, texts_alone: bool = False):
        super().__init__(None, spec)
        self.texts_alone = texts_alone

    @cached_property
    def model(self) -> Any:
        """The model, as `diptych.load` returns it."""
        try:
            model = store.load(self.name)
        except InputError as error:
            raise InputError(f"the teacher cannot be loaded: {error}") from error
        wanted = TextModel if self.texts_alone else Model
        embeds = isinstance(model, wanted) and model.encoder.text is not None
        if self.texts_alone and not (embeds and model.tokenizer is not None):
            raise InputError(
                f"the teacher {self.name} does not embed texts; name a model that does, such as a RUN of simcse "
                "or hf:FOLDER"
            )
        if not embeds or model.tokenizer is None:
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
        """Return the teacher's views where they differ from the student's: the same crop and the
        same words, named "teacher", at the teacher's image size and with its tokenizer."""
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
        """Return unit vectors (B, E) of the images of `views`."""
        return self.module.embed_images(batch.images.get("teacher", batch.image).flat)

    @torch.no_grad()
    def embed_texts(self, batch: Batch) -> Tensor:
        """Return unit vectors (B, E) of the texts of `views`."""
        return self.module.embed_texts(*batch.texts.get("teacher", batch.text).flat)


class LentLM(Frozen):
    """The frozen language model of a spec, loaded when it is first used.

    With `encoders` it may be an encoder-decoder, the T5 of `hf-lm:FOLDER`: its `lm.read` encodes what
    comes before, and the decoder goes on from `tokenizer.before`. When first used, raises InputError if
    there is no such model or it is no language model.

    >>> lent = LentLM("tiny-lm")
    >>> lent.model.tokenizer.context, list(lent.state_dict())
    (128, ['checksum'])
    """

    def __init__(self, spec: str, *, encoders: bool = False):
        super().__init__(None, spec)
        self.encoders = encoders

    @cached_property
    def model(self) -> LanguageModel:
        """The model, as `diptych.load` returns it."""
        kind, _, folder = self.name.partition(":")
        try:
            if kind == HF_LM and is_t5(folder):
                if not self.encoders:
                    raise InputError(
                        f"{folder} holds an encoder-decoder, and this method reads with a decoder alone; name a causal "
                        "language model"
                    )
                model: Any = EncoderDecoder(folder).to(self.checksum.device)
                self.hold(model.lm)
                return model
            model = store.load(self.name)
        except InputError as error:
            raise InputError(f"the language model cannot be loaded: {error}") from error
        if not isinstance(model, LanguageModel):
            raise InputError(
                f"lm={self.name} is no language model; name one, such as tiny-lm, a RUN of language_model or "
                "hf-lm:FOLDER"
            )
        self.hold(model.to(self.checksum.device).lm)
        return model


def _alike(one: AnyPreprocess, other: AnyPreprocess) -> bool:
    """Whether both give the same pixels; each tower applies its own mean and standard deviation."""
    if isinstance(one, Preprocess) and isinstance(other, Preprocess):
        return replace(one, mean=other.mean, std=other.std) == other
    return one == other
