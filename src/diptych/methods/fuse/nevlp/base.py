"""What both stages share: images, or their tokens that were computed before, and the concepts in
them."""

from typing import Any

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.columns import WithColumns
from diptych.data.sample import Source
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import ArrayView, ImageView, View, augmentation
from diptych.errors import InputError
from diptych.methods.base import Features, Method
from diptych.methods.fuse.nevlp.concepts import CONCEPTS
from diptych.methods.fuse.nevlp.queries import QueryCaptioner
from diptych.methods.make import Make
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature
from diptych.towers.nn.qformer import QFormer, QFormerConfig

TOKENS = "tokens"
"""The column with the frozen encoder's tokens (T, ·) of an image."""


class QueryMethod(Method):
    """A method that trains a Q-Former on a frozen encoder, of the stream `train`."""

    model: QueryCaptioner

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)
        if config.cached and config.augment:
            raise InputError(
                "images that are cached are encoded once and cannot vary; leave augment out"
            )

    @property
    def name(self) -> str:
        return "NEVLP"

    @property
    def image_view(self) -> View:
        """The view that gives images, or their cached tokens."""
        if self.config.cached:
            return ArrayView(array=TOKENS)
        return ImageView(preprocess=self.model.preprocess, augment=self.augment)

    def tokens(self, batch: Batch) -> Tensor:
        """The tokens (B, T, ·) of a batch's images, as the Q-Former reads them."""
        if self.config.cached:
            return self.model.read(batch.fields[TOKENS])
        return self.model.look(batch.image.flat)

    def prepare_images(self, run: Any) -> Source:
        """Store once what the frozen encoder finds in the training images, concepts and tokens, as far as
        they are used; return the source with these columns."""
        source = run.sources["train"]
        model = self.model
        wanted = []
        if model.names:
            wanted.append(CONCEPTS)
        if self.config.cached:
            wanted.append(TOKENS)
        if all(name in getattr(source, "columns", ()) for name in wanted):
            return source

        def find(batch: Batch) -> Features:
            seen = model.encoder.encode_image(batch.image.flat)
            found: Features = {}
            if model.names:
                found[CONCEPTS] = model.concepts_of(model.vectors_of(seen))
            if self.config.cached:
                found[TOKENS] = seen.tokens.to(torch.float16)
            return found

        view = ImageView(preprocess=model.preprocess)
        columns = run.map(find, [view], source, mapped=TOKENS if self.config.cached else None)
        run.store("train", columns)
        return WithColumns(source, columns)


def frozen_encoder(make: Make) -> DualEncoder:
    """The dual encoder that stays as it is. Raises InputError for one that lacks a side."""
    encoder = make.dual(logit_scale=Temperature(100.0, form="fixed"))
    if encoder.text is None or "image" not in encoder.sides:
        raise InputError(
            "concepts are found by a model of images and texts; start from one that has a tower for both"
        )
    return encoder


def qformer_of(config: Any, encoder: DualEncoder, words: Tokenizer) -> QFormer:
    """The Q-Former of these options, for the tokens of an encoder and its tokenizer's words."""
    return QFormer(
        QFormerConfig(
            vocab_size=words.vocab_size + 1,  # with [DEC]
            memory_width=encoder.image.width,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            queries=config.queries,
            dropout=config.dropout,
        )
    )
