"""BioViL's published weights: `biovil:FOLDER`, the hub's folder of CXR-BERT with the file of the image model in it.

    config.json, vocab.txt, pytorch_model.bin   CXR-BERT: BERT, its head of masked words, and P_t
        bert.*, cls.predictions.*, cls_projection_head.*
    biovil_image_resnet50_proj_size_128.pt      the image model: a ResNet without its classifier, and P_v
        encoder.encoder.*, projector.model.*

A folder without a file of the image model, such as that of CXR-BERT general, gives an encoder of texts alone.
The code in the folder is not run.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, from_folder
from diptych.errors import InputError
from diptych.methods.domain.biovil.model import Reports, image_projection, text_projection
from diptych.models.pretrained.convert import Rule, take
from diptych.models.pretrained.files import read_weights
from diptych.towers import hf
from diptych.towers.dual import DualEncoder

SIZE = 480
SCALED = 512
TAU = 0.5
IMPRESSION = "impression"
RESNETS: Mapping[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (True, (3, 4, 6, 3)): "resnet50",
}
"""timm's names, by whether blocks are bottlenecks and by their numbers."""

W = r"(?P<w>weight|bias)"
REST = r"(?P<rest>.*)"
TEXT = [
    Rule(r"bert\.embeddings\.position_ids"),
    Rule(r"bert\.pooler\..*"),
    Rule(r"cls\.predictions\.decoder\..*"),  # the word table, and the bias again
    Rule(rf"bert\.{REST}", (r"encoder.text.model.\g<rest>",)),
    Rule(r"cls\.predictions\.bias", ("words.bias",)),
    Rule(rf"cls\.predictions\.transform\.dense\.{W}", (r"words.dense.\g<w>",)),
    Rule(rf"cls\.predictions\.transform\.LayerNorm\.{W}", (r"words.norm.\g<w>",)),
    Rule(rf"cls_projection_head\.dense_to_hidden\.{W}", (r"encoder.text_projection.0.\g<w>",)),
    Rule(rf"cls_projection_head\.LayerNorm\.{W}", (r"encoder.text_projection.2.\g<w>",)),
    Rule(rf"cls_projection_head\.dense_to_output\.{W}", (r"encoder.text_projection.3.\g<w>",)),
]
IMAGE = [
    Rule(r"encoder\.encoder\.fc\..*|classifier\..*"),
    Rule(rf"encoder\.encoder\.{REST}", (r"encoder.image.model.\g<rest>",)),
    Rule(
        r"projector\.model\.(?P<n>[03])\.weight",
        (r"encoder.image_projection.\g<n>.weight",),
        lambda kernel: (kernel.flatten(1),),  # of 1 x 1
    ),
    Rule(rf"projector\.model\.{REST}", (r"encoder.image_projection.\g<rest>",)),
]


def read(folder: Path) -> tuple[Reports, Tokenizer, dict[str, Any]]:
    """The model of published weights, in evaluation mode, its tokenizer, and the options of BioViL.

    Images are scaled to 512 pixels and cropped to 480, and pixels are from 0 to 1. Raises InputError
    for what is no folder of CXR-BERT, for several files that end in `.pt`, and for an image model of
    another kind, as BioViL-T's.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}; name one with CXR-BERT's config.json, vocab.txt and weights"
        )
    config = hf.described(str(folder), "bert")
    state = read_weights(folder)
    hidden = state.get("cls_projection_head.dense_to_hidden.weight")
    embed = state.get("cls_projection_head.dense_to_output.weight")
    if hidden is None or embed is None:
        raise InputError(
            f"{folder} holds no CXR-BERT, which has a cls_projection_head; to start from another text encoder give "
            f"--text-tower hf:{folder}"
        )
    tokenizer = from_folder(
        folder, context=config.max_position_embeddings, local=True, model_type="bert"
    )
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{folder} knows {config.vocab_size} words, its tokenizer {tokenizer.vocab_size}; copy the folder again"
        )
    dual: dict[str, Any] = {
        "image": None,
        "text": {
            "name": "hf",
            "config": hf.plain(config),
            "pooling": "first",
            "context": tokenizer.context,
            "pad": tokenizer.pad,
            "eot": tokenizer.eot,
        },
        "embed_dim": len(embed),
        "logit_scale": {"form": "fixed", "init": 1 / TAU},
        "text_projection": text_projection(len(hidden)),
        "pool": "after",
    }
    options: dict[str, Any] = {"text_projection": dual["text_projection"]}
    rules = TEXT
    file = _image_file(folder)
    if file is None:
        options["stages"] = ("language", "sections")
    else:
        images = read_weights(file)
        dual["image"] = _resnet(images, file)
        dual["image_projection"] = image_projection(len(images["projector.model.0.weight"]))
        options["image_projection"] = dual["image_projection"]
        state |= images
        rules = [*TEXT, *IMAGE]
    reports = Reports(DualEncoder.from_config(dual), IMPRESSION)
    take(reports, state, rules, str(folder))
    return reports.eval(), tokenizer, options


def _image_file(folder: Path) -> Path | None:
    """The file of the image model, or None."""
    found = sorted(folder.glob("*.pt"))
    if len(found) > 1:
        raise InputError(
            f"{folder} holds {len(found)} files that end in .pt; keep that of the image model alone"
        )
    return found[0] if found else None


def _resnet(state: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """The spec of the image tower. Raises InputError for another image model than BioViL's."""
    if any(name.startswith("encoder.backbone_to_vit") for name in state):
        raise InputError(
            f"{file} is the image model of BioViL-T, which compares two images; name BioViL's"
        )
    blocks = [re.match(r"encoder\.encoder\.layer(\d)\.(\d+)\.", name) for name in state]
    found = {(int(block[1]), int(block[2])) for block in blocks if block}
    counts = tuple(sum(layer == own for own, _ in found) for layer in (1, 2, 3, 4))
    kind = ("encoder.encoder.layer1.0.conv3.weight" in state, counts)
    if kind not in RESNETS or "projector.model.0.weight" not in state:
        raise InputError(
            f"{file} holds no image model of BioViL, which has encoder.encoder.* of a ResNet-50 and projector.model.*"
        )
    preprocess = Preprocess(
        size=SIZE,
        resize="shortest",
        interpolation="bilinear",
        margin=SCALED / SIZE,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return {
        "name": "timm",
        "model": RESNETS[kind],
        "image_size": SIZE,
        "preprocess": preprocess.to_dict(),
    }
