"""BLIP-2's weights as a start of SPRC's model: `sprc:FOLDER`, a `Blip2ForImageTextRetrieval` in
transformers' layout with its tokenizer.

    vision_model.*               the image tower, without its final norm
    vision_model.post_layernorm  the norm of the tokens, which SPRC trains
    query_tokens, embeddings.*, qformer.*       the Q-Former
    vision_projection, text_projection          the projections

The head that matches (`itm_head`) is not read. The folder has no temperature: it starts at 0.07.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError, unknown
from diptych.methods.adapt.sprc.composer import Composer
from diptych.models.pretrained import hf
from diptych.models.pretrained.bert import fused_layer
from diptych.models.pretrained.blip2 import Blip2Pair
from diptych.models.pretrained.convert import Rule, fill, rows, square, take, thirds, under
from diptych.models.pretrained.hf_families import ACTIVATION
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.qformer import QFormer, QFormerConfig

W = r"(?P<w>weight|bias)"
IMAGE_LAYER = [
    Rule(rf"layer_norm(?P<n>[12])\.{W}", (r"norm\g<n>.\g<w>",)),
    Rule(rf"self_attn\.qkv\.{W}", (r"attn.q.\g<w>", r"attn.k.\g<w>", r"attn.v.\g<w>"), thirds),
    Rule(rf"self_attn\.projection\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"mlp\.fc(?P<n>[12])\.{W}", (r"mlp.fc\g<n>.\g<w>",)),
]
IMAGE = [
    *under(
        r"vision_model\.encoder\.layers\.(?P<layer>\d+)\.",
        r"image.transformer.layers.\g<layer>.",
        IMAGE_LAYER,
    ),
    Rule(r"vision_model\.embeddings\.class_embedding", ("image.cls",), rows),
    Rule(r"vision_model\.embeddings\.position_embedding", ("image.positions",), rows),
    Rule(rf"vision_model\.embeddings\.patch_embedding\.{W}", (r"image.patch_embed.\g<w>",)),
]
QUERY_LAYER = [
    *fused_layer("attention"),
    Rule(rf"intermediate_query\.dense\.{W}", (r"query_mlp.fc1.\g<w>",)),
    Rule(rf"output_query\.dense\.{W}", (r"query_mlp.fc2.\g<w>",)),
    Rule(rf"output_query\.LayerNorm\.{W}", (r"query_norm.\g<w>",)),
]
COMPOSER = [
    *under(
        r"qformer\.encoder\.layer\.(?P<layer>\d+)\.",
        r"qformer.layers.\g<layer>.",
        QUERY_LAYER,
    ),
    Rule(rf"qformer\.layernorm\.{W}", (r"qformer.norm.\g<w>",)),
    Rule(r"query_tokens", ("qformer.queries",), rows),
    Rule(r"embeddings\.word_embeddings\.weight", ("qformer.table.weight",)),
    Rule(r"embeddings\.position_embeddings\.weight", ("qformer.positions",)),
    Rule(rf"vision_model\.post_layernorm\.{W}", (r"norm.\g<w>",)),
    Rule(rf"vision_projection\.{W}", (r"image_projection.\g<w>",)),
    Rule(rf"text_projection\.{W}", (r"text_projection.\g<w>",)),
    Rule(r"logit_scale\.value", ("logit_scale.value",)),  # ours
]
FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "cross_attention_frequency": 2}
"""What our Q-Former computes, and no option changes."""
LENGTH = 32
RATIO = 1.25
TAU = 0.07


def read(folder: Path) -> tuple[Composer, Tokenizer, dict[str, Any]]:
    """The model of BLIP-2's weights, in evaluation mode, its tokenizer, and the options of SPRC that
    build it.

    Images are prepared as SPRC's: bars, shortest side, centre. Raises InputError for a folder of
    another model, one without a tokenizer, and for a Q-Former of another kind.
    """
    where = f"sprc:{folder}"
    given = hf.load(str(folder))
    pair = getattr(given, "pair", None)
    if not isinstance(pair, Blip2Pair):
        raise InputError(
            f"{where} is no BLIP-2; name a folder of Blip2ForImageTextRetrieval, or start from any other model with "
            "--init and --method.task pairs"
        )
    tokenizer = given.tokenizer
    if tokenizer is None:
        raise InputError(
            f"{where} has no tokenizer, and instructions are texts; put tokenizer.json and tokenizer_config.json of "
            "the model into the folder"
        )
    config = pair.model.config
    state = dict(pair.model.state_dict())
    state["embeddings.word_embeddings.weight"] = _words(
        state["embeddings.word_embeddings.weight"], tokenizer.vocab_size
    )
    preprocess = replace(pair.preprocess, resize="shortest", margin=None, ratio=RATIO)
    encoder = _encoder(config.vision_config, preprocess, state, where)
    qformer = _qformer(config, encoder.image.width, tokenizer.vocab_size, where)
    embed = config.image_text_hidden_size
    with torch.device("meta"):
        composer = Composer(
            encoder,
            QFormer(qformer),
            embed,
            prompts=qformer.queries,
            length=LENGTH,
        )
    state["logit_scale.value"] = torch.tensor(TAU)
    take(composer, state, COMPOSER, where, foreign=("encoder.",))
    names = ("width", "depth", "heads", "queries", "dropout")
    sizes = {name: getattr(qformer, name) for name in names}
    options = {**sizes, "embed": embed, "length": LENGTH, "ratio": RATIO}
    return composer.eval(), tokenizer, options


def _words(table: Tensor, count: int) -> Tensor:
    """The rows of a table of words that the tokenizer has; the token of the image, which no text has,
    gets zeros."""
    missing = max(0, count - len(table))
    return torch.cat([table[:count], table.new_zeros(missing, table.shape[1])])


def _encoder(
    part: Any, preprocess: Preprocess, state: dict[str, Tensor], where: str
) -> DualEncoder:
    """The frozen image tower, which takes its tensors out of `state`."""
    if part.hidden_act not in ACTIVATION:
        raise unknown(f"activation of {where}", part.hidden_act, ACTIVATION)
    image = {
        "name": "vit",
        "image_size": preprocess.size,
        "patch": square(part.patch_size, where),
        "width": part.hidden_size,
        "depth": part.num_hidden_layers,
        "heads": part.num_attention_heads,
        "mlp_ratio": part.intermediate_size / part.hidden_size,
        "activation": ACTIVATION[part.hidden_act],
        "eps": part.layer_norm_eps,
        "cls_position": True,
        "final_norm": False,
        "preprocess": preprocess.to_dict(),
    }
    own = [
        name
        for name in state
        if name.startswith("vision_model.") and ".post_layernorm." not in name
    ]
    config: Mapping[str, Any] = {
        "image": image,
        "text": None,
        "embed_dim": part.hidden_size,
        "image_projection": "none",
        "logit_scale": {"form": "fixed", "init": 100.0},
    }
    return fill(config, {name: state.pop(name) for name in own}, IMAGE, where)


def _qformer(config: Any, memory_width: int, words: int, where: str) -> QFormerConfig:
    """The options of the Q-Former. Raises InputError for what ours does not compute."""
    part = config.qformer_config
    for name, value in FIXED.items():
        if getattr(part, name) != value:
            raise InputError(
                f"{where} has a Q-Former with {name}={getattr(part, name)}; supported is {value}, as in BLIP-2"
            )
    return QFormerConfig(
        vocab_size=words,
        memory_width=memory_width,
        width=part.hidden_size,
        depth=part.num_hidden_layers,
        heads=part.num_attention_heads,
        queries=config.num_query_tokens,
        dropout=part.hidden_dropout_prob,
    )
