"""Tiny models of several kinds, every parameter away from its initial value."""

from typing import Any

import torch

from diptych.data.tokenizers import Bpe, Tokenizer, train_bpe
from diptych.models.model import Model, TextModel
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder

VIT = {"name": "vit", "image_size": 32, "patch": 8, "width": 64, "depth": 2, "heads": 4}
CLIP = {**VIT, "pre_norm": True}
SIGLIP = {**VIT, "cls": 0, "pooling": "map", "eps": 1e-6, "activation": "gelu_tanh"}
WORDS = {"name": "text", "width": 32, "depth": 2, "heads": 2}


def siglip_words() -> dict[str, Any]:
    return {
        **WORDS,
        "width": 64,
        "causal": False,
        "pooling": "last",
        "eps": 1e-6,
        "activation": "gelu_tanh",
    }


def bpe(padding: Any = "longest") -> Bpe:
    return train_bpe(
        ["a red cat sits on a mat", "two dogs running"] * 4,
        vocab_size=290,
        context=24,
        padding=padding,
    )


BPE = bpe()


def make(
    image: dict[str, Any] | None,
    text: dict[str, Any],
    tokenizer: Tokenizer,
    embed_dim: int = 24,
    **dual: Any,
) -> Any:
    torch.manual_seed(0)
    words = text_tower(
        text,
        vocab_size=tokenizer.vocab_size,
        context=tokenizer.context,
        pad=tokenizer.pad,
        eot=tokenizer.eot,
        padding=tokenizer.padding,
    )
    encoder = DualEncoder(image and image_tower(image), words, embed_dim, **dual).eval()
    with torch.no_grad():
        for value in encoder.parameters():
            if value.ndim:
                value += 0.05 * torch.randn_like(value)
    if image is None:
        return TextModel(encoder, tokenizer, name="tiny")
    return Model(encoder, tokenizer, encoder.image.preprocess, name="tiny")
