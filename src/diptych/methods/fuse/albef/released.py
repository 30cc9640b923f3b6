"""ALBEF's published weights: `albef:FILE`, or `albef:FOLDER` with one such file, and BERT's tokenizer beside it.

    visual_encoder.*                  a ViT as timm names its parts
    text_encoder.bert.*               BERT: the layers before the first with cross-attention are the text tower, the
                                      others the multimodal encoder; without `bert.` after fine-tuning for retrieval
    text_encoder.cls.predictions.*    the head of masked words, which fine-tuning leaves out
    vision_proj, text_proj, itm_head, temp

Momentum copies (`*_m`) and queues are not read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, from_folder
from diptych.data.tokenizers.hf import has_tokenizer
from diptych.errors import InputError
from diptych.methods.fuse.albef.model import Matcher
from diptych.models.pretrained.bert import fused_layer
from diptych.models.pretrained.convert import Rule, rows, scalar, take, under
from diptych.models.pretrained.files import read_weights
from diptych.models.pretrained.openclip.rules import TIMM_BLOCK
from diptych.towers.dual import DualEncoder

W = r"(?P<w>weight|bias)"
REST = r"(?P<rest>.*)"
_BERT = r"text_encoder\.(?:bert\.)?"
_LAYER = re.compile(_BERT + r"encoder\.layer\.(?P<layer>\d+)\.(?P<cross>crossattention\.)?.*")
_NEEDED = {
    "vision_proj.weight",
    *(
        f"visual_encoder.{name}"
        for name in ("pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    ),
}
_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")
_HEAD = 64
"""The width of a head of attention, of both towers."""

UNREAD = [
    Rule(r"\w+_m\..*"),  # momentum copies
    Rule(r"(?:image|text|idx)_queue|(?:queue_)?ptr|ptr_queue"),
    Rule(_BERT + r"embeddings\.position_ids"),
    Rule(_BERT + r"pooler\..*"),
    Rule(r"text_encoder\.cls\.predictions\.decoder\..*"),  # the word table, and the bias again
]
IMAGE = [
    *under(
        r"visual_encoder\.blocks\.(?P<layer>\d+)\.",
        r"encoder.image.transformer.layers.\g<layer>.",
        TIMM_BLOCK,
    ),
    Rule(r"visual_encoder\.cls_token", ("encoder.image.cls",), rows),
    Rule(r"visual_encoder\.pos_embed", ("encoder.image.positions",), rows),
    Rule(rf"visual_encoder\.patch_embed\.proj\.{W}", (r"encoder.image.patch_embed.\g<w>",)),
    Rule(rf"visual_encoder\.norm\.{W}", (r"encoder.image.norm.\g<w>",)),
]
HEADS = [
    Rule(rf"vision_proj\.{W}", (r"encoder.image_projection.\g<w>",)),
    Rule(rf"text_proj\.{W}", (r"encoder.text_projection.\g<w>",)),
    Rule("temp", ("encoder.logit_scale.value",), scalar),
    Rule(rf"itm_head\.{W}", (r"match_head.\g<w>",)),
    Rule(
        rf"text_encoder\.cls\.predictions\.transform\.dense\.{W}",
        (r"multimodal.words.dense.\g<w>",),
    ),
    Rule(
        rf"text_encoder\.cls\.predictions\.transform\.LayerNorm\.{W}",
        (r"multimodal.words.norm.\g<w>",),
    ),
    Rule(r"text_encoder\.cls\.predictions\.bias", ("multimodal.words.bias",)),
    Rule(
        rf"multimodal\.words\.{REST}", (r"multimodal.words.\g<rest>",)
    ),  # ours, where there is no head
]


def read(given: Path) -> tuple[Matcher, Tokenizer]:
    """The model of published weights, in evaluation mode, and its tokenizer.

    Raises InputError for a file of another layout, a folder without one file of weights, and without
    a tokenizer beside it.
    """
    file = _file(given)
    if not has_tokenizer(file.parent):
        raise InputError(
            f"{file.parent} has no tokenizer; put tokenizer.json and tokenizer_config.json of bert-base-uncased beside "
            f"{file.name}"
        )
    state = read_weights(file)
    first, count = _layers(state, file)
    words = _size(state, r"embeddings\.word_embeddings\.weight", file)
    places = _size(state, r"embeddings\.position_embeddings\.weight", file)[0]
    tokenizer = from_folder(file.parent, context=places, local=True)
    if tokenizer.vocab_size > words[0]:
        raise InputError(
            f"{file} knows {words[0]} words, the tokenizer beside it {tokenizer.vocab_size}; use bert-base-uncased's"
        )
    text = _bert(state, words, places, first, tokenizer, file)
    encoder = DualEncoder.from_config(
        {
            "image": _vit(state),
            "text": text,
            "embed_dim": len(state["vision_proj.weight"]),
            "logit_scale": {"form": "divisor", "init": 0.07, "clamp": [0.001, 0.5]},
            "image_projection": "affine",
            "text_projection": "affine",
        }
    )
    matcher = Matcher(encoder, count - first)
    if not any(name.startswith("text_encoder.cls.") for name in state):
        own = matcher.multimodal.words.state_dict()
        state |= {f"multimodal.words.{name}": value for name, value in own.items()}
    take(matcher, state, [*UNREAD, *IMAGE, *HEADS, *_text_rules(first, count)], str(file))
    return matcher.eval(), tokenizer


def _file(given: Path) -> Path:
    """The file of weights that is named, or the only one of a folder."""
    if not given.is_dir():
        return given
    found = sorted(path for path in given.iterdir() if path.suffix in _ENDINGS)
    if len(found) != 1:
        raise InputError(
            f"{given} holds {len(found)} files of weights ({', '.join(_ENDINGS)}); name the file"
        )
    return found[0]


def _layers(state: Mapping[str, Tensor], file: Path) -> tuple[int, int]:
    """The first layer of BERT with cross-attention, and the number of all.

    Raises InputError for what is no checkpoint of ALBEF.
    """
    layers = [found for found in map(_LAYER.fullmatch, state) if found]
    fused = [int(layer["layer"]) for layer in layers if layer["cross"]]
    if not fused or not state.keys() >= _NEEDED:
        raise InputError(
            f"{file} holds no weights of ALBEF, which have visual_encoder.*, vision_proj and a text_encoder.* with "
            "cross-attention; name a checkpoint of pre-training or retrieval"
        )
    return min(fused), 1 + max(int(layer["layer"]) for layer in layers)


def _size(state: Mapping[str, Tensor], pattern: str, file: Path) -> tuple[int, ...]:
    """The shape of a tensor of BERT. Raises InputError if there is none."""
    for name, value in state.items():
        if re.fullmatch(_BERT + pattern, name):
            return tuple(value.shape)
    raise InputError(f"{file} has no text_encoder with {pattern}; name a checkpoint of ALBEF")


def _vit(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The spec of the image tower."""
    width, _, patch, _ = state["visual_encoder.patch_embed.proj.weight"].shape
    side = round((state["visual_encoder.pos_embed"].shape[1] - 1) ** 0.5)
    depth = sum(
        bool(re.fullmatch(r"visual_encoder\.blocks\.\d+\.norm1\.weight", name)) for name in state
    )
    preprocess = Preprocess(size=side * patch, resize="squash")
    return {
        "name": "vit",
        "image_size": side * patch,
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": width // _HEAD,
        "mlp_ratio": len(state["visual_encoder.blocks.0.mlp.fc1.weight"]) / width,
        "eps": 1e-6,
        "cls_position": True,
        "preprocess": preprocess.to_dict(),
    }


def _bert(
    state: Mapping[str, Tensor],
    words: tuple[int, ...],
    places: int,
    depth: int,
    tokenizer: Tokenizer,
    file: Path,
) -> dict[str, Any]:
    """The spec of the text tower."""
    config = {
        "model_type": "bert",
        "vocab_size": words[0],
        "hidden_size": words[1],
        "num_hidden_layers": depth,
        "num_attention_heads": words[1] // _HEAD,
        "intermediate_size": _size(state, r"encoder\.layer\.0\.intermediate\.dense\.weight", file)[
            0
        ],
        "max_position_embeddings": places,
    }
    kept = {"context": places, "pad": tokenizer.pad, "eot": tokenizer.eot}
    return {"name": "hf", "config": config, "pooling": "first", **kept}


def _text_rules(first: int, count: int) -> list[Rule]:
    """The rules of BERT, of whose layers those from `first` to `count` are the multimodal encoder's."""
    fused = [
        rule
        for layer in range(first, count)
        for rule in under(
            rf"{_BERT}encoder\.layer\.{layer}\.",
            f"multimodal.transformer.layers.{layer - first}.",
            fused_layer("self"),
        )
    ]
    return [*fused, Rule(_BERT + REST, (r"encoder.text.model.\g<rest>",))]
