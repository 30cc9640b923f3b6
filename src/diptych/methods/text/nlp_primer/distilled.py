"""Contrastive distillation of layers (CRD and CoDIR).

    s = unit( W_s [mean over tokens of the student's layers] )
    t = unit( W_t [mean over tokens of the teacher's layers] ),        L = `losses.layer_contrast`(s, t)

Several layers of a model are put side by side. W_s and W_t are linear maps that are learnt in training.

Dimensions: N texts, L tokens, D width of a tower, K layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.data.views import TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.make import Make
from diptych.methods.teacher import Teacher
from diptych.methods.text.nlp_primer.losses import layer_contrast
from diptych.methods.text.nlp_primer.objective import Objective, ObjectiveConfig
from diptych.methods.text.nlp_primer.taxonomy import Row
from diptych.models.model import evaluating
from diptych.spec import ModelSpec, Positive, Width
from diptych.towers.dual import DualEncoder


@dataclass(frozen=True, kw_only=True)
class CRDConfig(ObjectiveConfig):
    """`teacher` is a model that embeds texts. `layers` are those of the encoder and `teacher_layers`
    those of the teacher, by number: 0 are the embeddings, -1 is the last layer with its norm. `width`
    is that of the space in which they are compared. `form` is "nce", a binary classification of each
    pair, or "info", InfoNCE."""

    tau: Positive = 0.07
    teacher: ModelSpec = "tiny"
    layers: tuple[int, ...] = (-1,)
    teacher_layers: tuple[int, ...] = (-1,)
    width: Width = 128
    form: Literal["nce", "info"] = "nce"

    def __post_init__(self) -> None:
        if not self.layers or not self.teacher_layers:
            raise InputError("no layers are given; name one at least, such as layers=-1")


class CRD(Objective):
    """Layers of the encoder against those of a teacher, of the same text and of others (Tian et al.
    2020, Sun et al. 2020)."""

    Config = CRDConfig
    row = Row(
        title="CRD, CoDIR",
        source="Tian et al. 2020, Sun et al. 2020",
        contrast="input-label",
        supervision="self",
        positives="a teacher's layer of the same text",
        negatives="the teacher's layer of other texts, in-batch",
    )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.without_projection()
        if not {-1} & set(config.layers):
            self.find_unused_parameters = True  # type: ignore[misc]  # of the layers behind
        self.teacher = Teacher(config.teacher, texts_alone=True)
        with torch.device("cpu"):  # also where a model is built without its weights
            taught: Any = self.teacher.model.encoder.text
        own: Any = self.model.text
        self.map = nn.Linear(len(config.layers) * own.width, config.width)
        self.teacher_map = nn.Linear(len(config.teacher_layers) * taught.width, config.width)

    def setup(self, sources: Mapping[str, Any]) -> None:
        config = self.config
        taught = self.teacher.model
        for encoder, words, layers in (
            (self.model, self.make.tokenizer, config.layers),
            (taught.encoder, taught.tokenizer, config.teacher_layers),
        ):
            _check(encoder, words, layers)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        text = TextView(tokenizer=self.make.tokenizer, role=self.config.role)
        words = self.teacher.model.tokenizer
        if words == text.tokenizer:
            return (text,)
        return text, replace(text, tokenizer=words, name="teacher", like=text.gives[0])

    def encode(self, batch: Batch, at: At) -> Features:
        config = self.config
        own = layer_means(self.model, *batch.text.flat, config.layers)
        read = batch.texts.get("teacher", batch.text)
        with torch.no_grad():
            taught = layer_means(self.teacher.module, *read.flat, config.teacher_layers)
        return {
            "student": normalize(self.map(own), dim=-1),
            "teacher": normalize(self.teacher_map(taught), dim=-1),
        }

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        found = layer_contrast(features["student"], features["teacher"], config.tau, config.form)
        return Losses({"layers": found})


def layer_means(
    encoder: DualEncoder, ids: Tensor, lengths: Tensor, layers: Sequence[int]
) -> Tensor:
    """The means over real tokens of some layers of a text tower, side by side (N, K · D), of ids (N, L)
    with lengths (N,).

    Layer 0 are the embeddings, and the last one, -1, is that behind the final norm. Raises InputError
    for a layer that the tower does not have.
    """
    hidden: list[Tensor] = []

    def keep(layer: int, tokens: Tensor) -> Tensor:
        hidden.append(tokens)
        return tokens

    within = any(layer != -1 for layer in layers)
    encoded = encoder.encode_text(ids, lengths, edit=keep if within else None)
    hidden.append(encoded.tokens)
    depth = len(hidden) - 1
    for layer in layers:
        if not -len(hidden) <= layer <= depth:
            raise InputError(
                f"there is no layer {layer}: the tower's last is {depth}; choose from 0 to {depth}, or -1 for the last"
            )
    places = torch.arange(ids.shape[1], device=ids.device)
    real = (places < lengths.clamp(min=1)[:, None])[..., None]
    means = [(hidden[layer][:, : ids.shape[1]] * real).sum(1) / real.sum(1) for layer in layers]
    return torch.cat(means, 1)


def _check(encoder: DualEncoder, tokenizer: Tokenizer, layers: Sequence[int]) -> None:
    """Raise InputError for layers that an encoder does not have, by encoding a text."""
    ids, lengths = pad_batch(tokenizer.encode(["a"]), tokenizer)
    device = next(encoder.parameters()).device
    with evaluating(encoder), torch.no_grad():
        layer_means(encoder, ids.to(device), lengths.to(device), layers)
