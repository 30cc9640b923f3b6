"""The names of open_clip's tensors as those of our towers, or of the modules behind them."""

from collections.abc import Mapping
from typing import Any

from diptych.models.pretrained.convert import Rule, halves, row, rows, scalar, thirds, turned, under

W = r"(?P<w>weight|bias)"
LAYER = r"(?P<layer>\d+)\."
REST = r"(?P<rest>.*)"

BLOCK = [
    Rule(rf"ln_1\.{W}", (r"norm1.\g<w>",)),
    Rule(rf"attn\.in_proj_{W}", (r"attn.q.\g<w>", r"attn.k.\g<w>", r"attn.v.\g<w>"), thirds),
    Rule(rf"attn\.out_proj\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"ln_2\.{W}", (r"norm2.\g<w>",)),
    Rule(rf"mlp\.c_fc\.{W}", (r"mlp.fc1.\g<w>",)),
    Rule(rf"mlp\.c_proj\.{W}", (r"mlp.fc2.\g<w>",)),
    Rule(r"ls_(?P<n>[12])\.gamma", (r"scale\g<n>.gamma",)),
]
CROSS_BLOCK = [
    Rule(rf"ln_1\.{W}", (r"norm1.\g<w>",)),
    Rule(rf"ln_1_kv\.{W}", (r"norm_memory.\g<w>",)),
    Rule(rf"attn\.in_proj_{W}", (r"cross.q.\g<w>", r"cross.k.\g<w>", r"cross.v.\g<w>"), thirds),
    Rule(rf"attn\.out_proj\.{W}", (r"cross.out.\g<w>",)),
    *BLOCK[3:],
]
TIMM_BLOCK = [
    Rule(rf"norm(?P<n>[12])\.{W}", (r"norm\g<n>.\g<w>",)),
    Rule(rf"attn\.qkv\.{W}", (r"attn.q.\g<w>", r"attn.k.\g<w>", r"attn.v.\g<w>"), thirds),
    Rule(rf"attn\.proj\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"mlp\.fc(?P<n>[12])\.{W}", (r"mlp.fc\g<n>.\g<w>",)),
    Rule(r"ls(?P<n>[12])\.gamma", (r"scale\g<n>.gamma",)),
]
TIMM_POOL = [
    Rule("latent", ("probe",), rows),
    Rule(rf"q\.{W}", (r"attn.q.\g<w>",)),
    Rule(rf"kv\.{W}", (r"attn.k.\g<w>", r"attn.v.\g<w>"), halves),
    Rule(rf"proj\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"norm\.{W}", (r"norm.\g<w>",)),
    Rule(rf"mlp\.fc(?P<n>[12])\.{W}", (r"mlp.fc\g<n>.\g<w>",)),
]
SCALES = [
    Rule("logit_scale", ("logit_scale.value",), scalar),
    Rule("logit_bias", ("logit_bias",), scalar),
    Rule(r"input_resolution|context_length|vocab_size"),  # numbers in OpenAI's archives
    Rule(
        r"text_decoder\..*"
    ),  # CoCa's decoder, which a dual encoder does without (`decoder_rules`)
]
TEXT = [  # CLIP has its text tower at the top, CustomTextCLIP under "text."
    *under(
        rf"(?:text\.)?transformer\.resblocks\.{LAYER}", r"text.transformer.layers.\g<layer>.", BLOCK
    ),
    Rule(r"(?:text\.)?token_embedding\.weight", ("text.table.weight",)),
    Rule(r"(?:text\.)?positional_embedding", ("text.positions",)),
    Rule(r"text\.cls_emb", ("text.cls",), row),
    Rule(rf"(?:text\.)?ln_final\.{W}", (r"text.norm.\g<w>",)),
    Rule(r"(?:text\.)?text_projection", ("text_projection.weight",), turned),
    Rule(rf"(?:text\.)?text_projection\.{W}", (r"text_projection.\g<w>",)),
    Rule(r"(?:text\.)?attn_mask"),
]
HF_TEXT = [
    Rule(r"text\.transformer\.embeddings\.position_ids"),  # 0, 1, 2, …: in older files
    Rule(rf"text\.transformer\.{REST}", (r"text.model.\g<rest>",)),
    Rule(rf"text\.proj\.{REST}", (r"text_projection.\g<rest>",)),
]
VIT = [
    *under(
        rf"visual\.transformer\.resblocks\.{LAYER}", r"image.transformer.layers.\g<layer>.", BLOCK
    ),
    Rule(r"visual\.conv1\.weight", ("image.patch_embed.weight",)),
    Rule(r"visual\.class_embedding", ("image.cls",), row),
    Rule(r"visual\.positional_embedding", ("image.positions",)),
    Rule(rf"visual\.ln_pre\.{W}", (r"image.pre_norm.\g<w>",)),
    Rule(rf"visual\.ln_post\.{W}", (r"image.norm.\g<w>",)),
    Rule(r"visual\.proj", ("image_projection.weight",), turned),
]
QUERIES = [  # before those of VIT: with queries, what VIT calls its last norm follows the pooling
    Rule(rf"visual\.ln_post\.{W}", (r"image.pool.norm.\g<w>",)),
    Rule(rf"visual\.attn_pool\.ln_k\.{W}", (r"image.norm.\g<w>",)),
    Rule(rf"visual\.attn_pool\.ln_q\.{W}", (r"image.pool.norm_query.\g<w>",)),
    Rule(r"visual\.attn_pool\.query", ("image.pool.query",)),
    Rule(r"visual\.attn_pool\.attn\.(?P<p>[qkv])_proj_weight", (r"image.pool.attn.\g<p>.weight",)),
    *under(r"visual\.attn_pool\.", "image.pool.", BLOCK[1:3]),
    *VIT,
]
TIMM_VIT = [
    *under(rf"visual\.trunk\.blocks\.{LAYER}", r"image.transformer.layers.\g<layer>.", TIMM_BLOCK),
    *under(r"visual\.trunk\.attn_pool\.", "image.pool.", TIMM_POOL),
    Rule(rf"visual\.trunk\.patch_embed\.proj\.{W}", (r"image.patch_embed.\g<w>",)),
    Rule(r"visual\.trunk\.pos_embed", ("image.positions",), rows),
    Rule(rf"visual\.trunk\.norm\.{W}", (r"image.norm.\g<w>",)),
]


def timm_rules(classifier: str) -> list[Rule]:
    """The rules of a timm model, whose `classifier`, where it has one, projects."""
    return [
        Rule(rf"visual\.trunk\.{classifier}\.{W}", (r"image_projection.\g<w>",)),
        Rule(rf"visual\.head\.proj\.{W}", (r"image_projection.\g<w>",)),
        Rule(rf"visual\.head\.mlp\.fc1\.{W}", (r"image_projection.0.\g<w>",)),
        Rule(rf"visual\.head\.mlp\.fc2\.{W}", (r"image_projection.2.\g<w>",)),
        Rule(rf"visual\.trunk\.{REST}", (r"image.model.\g<rest>",)),
    ]


SIZES = {1: "1x1", 2: "kxk", 3: "1x1"}
"""How timm names the three convolutions of a bottleneck."""


def resnet_rules() -> list[Rule]:
    """The rules of a modified ResNet, which is timm's `resnet…_clip` here."""
    model = "image.model."
    rules = [
        Rule(r"visual\.conv(?P<n>\d)\.weight", (model + r"stem.conv\g<n>.conv.weight",)),
        Rule(rf"visual\.bn(?P<n>\d)\.{REST}", (model + r"stem.conv\g<n>.bn.\g<rest>",)),
        Rule(r"visual\.attnpool\.positional_embedding", (model + "head.pos_embed",)),
        Rule(rf"visual\.attnpool\.(?P<part>[qkv])_proj\.{W}", (model + r"head.\g<part>.\g<w>",)),
        Rule(rf"visual\.attnpool\.c_proj\.{W}", (r"image_projection.\g<w>",)),
    ]
    parts = [(rf"conv{n}", rf"bn{n}", f"conv{n}_{size}") for n, size in SIZES.items()]
    parts.append((r"downsample\.0", r"downsample\.1", "shortcut.conv"))
    for stage in range(4):
        theirs = rf"visual\.layer{stage + 1}\.{LAYER}"
        ours = rf"{model}stages.{stage}.\g<layer>."
        for conv, norm, name in parts:
            rules += [
                Rule(rf"{theirs}{conv}\.weight", (f"{ours}{name}.conv.weight",)),
                Rule(rf"{theirs}{norm}\.{REST}", (rf"{ours}{name}.bn.\g<rest>",)),
            ]
    return rules


def decoder_rules(config: Mapping[str, Any]) -> list[Rule]:
    """The rules of a decoder: MaMMUT's, beside its text stack, or that of a `multimodal_cfg`, CoCa's,
    whose layers of self-attention and of cross-attention are ours in turn."""
    if config["text_cfg"].get("does_full_decoding"):
        return [
            Rule(r"text\.text_projection", ("head.weight",), turned),
            Rule(r"map_viz2txt_kv", ("projection.weight",), turned),
        ]
    rules = [
        Rule(rf"text_decoder\.ln_final\.{W}", (r"norm.\g<w>",)),
        Rule(r"text_decoder\.text_projection", ("head.weight",), turned),
        Rule(r"text_decoder\.attn_mask"),
    ]
    for layer in range(config["multimodal_cfg"].get("layers", 12)):
        own = rf"text_decoder\.resblocks\.{layer}\."
        cross = rf"text_decoder\.cross_attn\.{layer}\."
        rules += under(own, f"decoder.layers.{2 * layer}.", BLOCK)
        rules += under(cross, f"decoder.layers.{2 * layer + 1}.", CROSS_BLOCK)
    return rules


def mammut_rules(text: Mapping[str, Any]) -> list[Rule]:
    """The rules of MaMMUT's text stack, whose layers of cross-attention stand between the others
    here and in a list of their own there."""
    every = text["cross_every"]
    found = []
    for layer in range(text["depth"]):
        place = layer + -(-layer // every)
        found += under(rf"text\.resblocks\.{layer}\.", f"text.transformer.layers.{place}.", BLOCK)
        if layer % every == 0:
            found += under(
                rf"text\.cross_attn\.{layer // every}\.",
                f"text.transformer.layers.{place + 1}.",
                CROSS_BLOCK,
            )
    return [
        *found,
        Rule(r"text\.token_embedding\.weight", ("text.table.weight",)),
        Rule(r"text\.positional_embedding", ("text.positions",)),
        Rule(rf"text\.ln_final\.{W}", (r"text.norm.\g<w>",)),
        Rule(r"text\.attn_mask"),
    ]
