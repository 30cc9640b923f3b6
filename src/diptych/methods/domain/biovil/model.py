"""What BioViL delivers: a dual encoder whose text tower also predicts masked words.

Dimensions: N texts, L tokens, W words of the vocabulary, H x W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diptych.data.images import FileImage, Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.errors import InputError
from diptych.models.delivered import Delivered, Validation
from diptych.models.heat import Interpolation, heat_map
from diptych.models.model import Model, TextModel, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.words import WordHead

MASK = "[MASK]"
"""What stands for a masked word in a text."""


def image_projection(hidden: int) -> str:
    """P_v of this width."""
    return f"mlp:hidden={hidden}:last_bias=true"


def text_projection(hidden: int) -> str:
    """P_t of this width."""
    return f"mlp:hidden={hidden}:bias=true:last_bias=true:norm=layer:activation=gelu:activation_first=true:eps=1e-12"


class Reports(Delivered):
    """A dual encoder, or an encoder of texts alone, and the head of masked words."""

    def __init__(self, encoder: DualEncoder, role: str):
        super().__init__()
        self.encoder = encoder
        self.role = role
        assert encoder.text is not None
        table: Any = encoder.text.table
        self.words = WordHead(table.weight.shape[1], table.weight.shape[0])

    @property
    def preprocess(self) -> Preprocess | None:
        """The preprocessing of images, None without an image tower."""
        return self.encoder.image.preprocess if "image" in self.encoder.sides else None

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        if preprocess is None:
            return ReportTextModel(self.encoder, tokenizer, name=name, delivered=self)
        model = ReportModel(self.encoder, tokenizer, preprocess, name=name, delivered=self)
        model.validation = Validation("retrieval", ("i2t_", "t2i_"), {"role": self.role})
        return model


class Fills(TextModel):
    """The ability to predict masked words."""

    delivered: Reports

    def masked_logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Ids (N, L) in which some are masked, with lengths (N,) -> the logits of the word at every
        place (N, L, W), float32, on the CPU."""
        text: Any = self.encoder.text
        with evaluating(self.delivered), torch.inference_mode():
            hidden = text(ids.to(self.device), lengths.to(self.device)).tokens
            return self.delivered.words(hidden, text.table.weight).float().cpu().clone()

    def fill(
        self, texts: str | Sequence[str], images: None = None, *, k: int = 5
    ) -> list[list[list[tuple[str, float]]]]:
        """Return for each text, and for each [MASK] in it, the `k` likeliest words with their
        probabilities.

        A word is one token; a word that the vocabulary spells in several takes as many masks.
        Raises InputError for a text without a mask, and for one that exceeds the context.
        """
        tokenizer = self.tokenizer
        assert tokenizer is not None, "it was trained with a tokenizer"
        found = []
        for text in [texts] if isinstance(texts, str) else texts:
            row = masked_ids(tokenizer, text)
            ids, lengths = pad_batch([row], tokenizer)
            places = ids[0] == tokenizer.special_id("mask")
            best = self.masked_logits(ids, lengths)[0, places].softmax(-1).topk(k)
            found.append(
                [
                    [
                        (tokenizer.decode([number]).strip(), value)
                        for number, value in zip(numbers, values, strict=True)
                    ]
                    for numbers, values in zip(
                        best.indices.tolist(), best.values.tolist(), strict=True
                    )
                ]
            )
        return found


def masked_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which [MASK] stands for masked words.

    Raises InputError for a text without one, and for a text that exceeds the context.
    """
    if MASK not in text:
        raise InputError(f"{text!r} has no {MASK}; write {MASK} in place of the word to predict")
    own: list[int] = []
    for number, part in enumerate(text.split(MASK)):
        own += [tokenizer.special_id("mask")] if number else []
        own += tokenizer.ids(part) if part.strip() else []
    if len(own) > tokenizer.room:
        raise InputError(
            f"{text[:40]!r}… has {len(own)} tokens, and the model reads {tokenizer.room}; cut it"
        )
    return [*tokenizer.before, *own, *tokenizer.after]


class ReportTextModel(Fills):
    """Embeds texts and predicts masked words."""


class ReportModel(Fills, Model):
    """Embeds images and texts, predicts masked words, and shows where an image is like a phrase."""

    def similarity_map(
        self,
        image: str | Path | Image.Image,
        phrase: str,
        *,
        sigma: float = 1.5,
        interpolation: Interpolation = "nearest",
    ) -> Tensor:
        """Return the cosine of a phrase with each pixel of an image (H, W), NaN where the model does
        not see it (`models.heat.heat_map`)."""
        picture = image if isinstance(image, Image.Image) else FileImage(str(image)).decode()
        heat = self.heat([picture], phrase, exact=True)[0, 0]
        return heat_map(
            heat, self.preprocess, picture.size, sigma=sigma, interpolation=interpolation
        )
