"""Configurations of open_clip as configs of our dual encoder, with the rules for their tensors."""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from diptych.errors import InputError
from diptych.models.pretrained.convert import Rule, square
from diptych.models.pretrained.openclip.rules import (
    HF_TEXT,
    QUERIES,
    SCALES,
    TEXT,
    TIMM_VIT,
    VIT,
    mammut_rules,
    resnet_rules,
    timm_rules,
)
from diptych.models.pretrained.openclip.texts import PROJECTIONS, hf_text
from diptych.towers.nn.transformer import ACTIVATIONS

BLOCKS = "block_type qk_norm scaled_cosine_attn scale_heads scale_attn_inner scale_attn scale_fc"
"""Options of open_clip's own blocks that ours lack."""

RESNETS = {
    (64, 3, 4, 6, 3): "resnet50_clip",
    (64, 3, 4, 23, 3): "resnet101_clip",
    (80, 4, 6, 10, 6): "resnet50x4_clip",
    (96, 6, 8, 18, 8): "resnet50x16_clip",
    (128, 3, 15, 36, 10): "resnet50x64_clip",
}
"""timm's names of the modified ResNets, by width and layers."""


def describe(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Rule]]:
    """The config of our dual encoder for a config of open_clip, and the rules for its tensors.

    Raises InputError, which names the model as `where`, for options that our towers lack.
    """
    image, image_projection, image_rules = _image(config, where)
    cfg = config["text_cfg"]
    foreign = bool(cfg.get("hf_model_name"))
    writes = bool(cfg.get("does_full_decoding"))
    bias = config.get("init_logit_bias")
    dual = {
        "image": image,
        "text": hf_text(cfg, where)
        if foreign
        else _writing_text(config, where)
        if writes
        else _text(config, where),
        "embed_dim": config["embed_dim"],
        "logit_scale": {
            "init": math.exp(config.get("init_logit_scale", math.log(1 / 0.07))),
            "clamp": [1.0, 100.0] if bias is None else None,
        },
        "logit_bias": bias,
        "image_projection": image_projection,
        "text_projection": PROJECTIONS[cfg.get("hf_proj_type", "mlp")]
        if foreign
        else "none"
        if writes
        else _projection(cfg),
    }
    text_rules = HF_TEXT if foreign else mammut_rules(dual["text"]) if writes else TEXT
    return dual, [*SCALES, *text_rules, *image_rules]


def _image(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str, list[Rule]]:
    """The spec of the image tower, its projection, and the rules for its tensors."""
    cfg = config["vision_cfg"]
    if cfg.get("timm_model_name"):
        pools = cfg.get("timm_pool") == "map" and cfg.get("timm_proj") == "none"
        own = siglip_image(cfg) if pools else None
        return (own, "none", TIMM_VIT) if own else _timm(cfg, config["embed_dim"], where)
    if not isinstance(cfg.get("layers", 12), int):
        return _resnet(cfg, where), "affine", resnet_rules()
    return _vit(config, where), "linear", QUERIES if cfg.get("attentional_pool") else VIT


def _vit(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    from open_clip.model import CLIPVisionCfg

    cfg = config["vision_cfg"]
    _refuse(where, "image", cfg, CLIPVisionCfg, BLOCKS)
    full = asdict(CLIPVisionCfg(**cfg))
    if full["pool_type"] == "none" or isinstance(full["attentional_pool"], str):
        raise InputError(f"{where} is not supported: its image tower does not pool one vector")
    width = full["width"]
    queries = {
        "pooling": "queries",
        "queries": full["attn_pooler_queries"],
        "pool_heads": full["attn_pooler_heads"],
        "pool_width": config["embed_dim"],
    }
    return {
        "name": "vit",
        "image_size": square(full["image_size"], where),
        "patch": square(full["patch_size"], where),
        "width": width,
        "depth": full["layers"],
        "heads": width // full["head_width"],
        "mlp_ratio": int(width * full["mlp_ratio"]) / width,
        "activation": _activation(config.get("quick_gelu", False), full["act_kwargs"]),
        "eps": (full["norm_kwargs"] or {}).get("eps", 1e-5),
        "patch_bias": False,
        "cls_position": True,
        "pre_norm": not full["no_ln_pre"],
        "pooling": {"tok": "cls", "avg": "mean", "avg_all": "all"}[full["pool_type"]],
        "norm_after_pool": full["final_ln_after_pool"],
        "layer_scale": full["ls_init_value"],
        "patch_dropout": full["patch_dropout"],
        **(queries if full["attentional_pool"] else {}),
    }


def _timm(
    cfg: Mapping[str, Any], embed_dim: int, where: str
) -> tuple[dict[str, Any], str, list[Rule]]:
    """timm's model, whose classifier projects where there is no other projection."""
    import timm

    name = cfg["timm_model_name"]
    pool = cfg.get("timm_pool", "avg")
    kind = cfg.get("timm_proj", "linear")
    bias = cfg.get("timm_proj_bias", False)
    known = timm.get_pretrained_cfg(name)
    if known is None:
        raise InputError(f"{where}: timm {timm.__version__} has no model {name}; update timm")
    for key in ("patch_dropout", "timm_drop"):
        if cfg.get(key):
            raise InputError(f"{where} is not supported: its timm image tower has {key}={cfg[key]}")
    if pool in ("abs_attn", "rot_attn") or (kind not in ("linear", "mlp") and not pool):
        raise InputError(
            f"{where} is not supported: its image tower pools by {pool or 'nothing'}; avg, token and map are"
        )
    projection = {
        "none": "none",
        "linear": "affine" if bias else "linear",
        "mlp": timm_mlp(embed_dim, bias),
    }
    spec = {
        "name": "timm",
        "model": name,
        "pool": pool or None,
        "drop_path": cfg.get("timm_drop_path") or 0.0,
        "image_size": square(cfg.get("image_size", 224), where),
    }
    return spec, projection.get(kind, "affine"), timm_rules(str(known.classifier))


def timm_mlp(embed_dim: int, bias: bool) -> str:
    """open_clip's MLP after a timm model, as a head of ours; `bias` is that of its last layer."""
    last = str(bias).lower()
    return f"mlp:hidden={2 * embed_dim}:norm=none:activation=gelu:bias=true:last_bias={last}"


def _resnet(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    key = (cfg.get("width", 64), *cfg["layers"])
    if key not in RESNETS or cfg.get("head_width", 64) != 64:
        raise InputError(
            f"{where} is not supported: no ResNet of timm has its layers; {', '.join(RESNETS.values())} do"
        )
    size = square(cfg.get("image_size", 224), where)
    return {"name": "timm", "model": RESNETS[key], "image_size": size}


def siglip_image(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """The spec of a timm ViT with attention pooling (SigLIP), read from timm's module on the meta
    device; None for another architecture."""
    import timm

    with torch.device("meta"):
        trunk: Any = timm.create_model(cfg["timm_model_name"], num_classes=0)
    if (
        type(trunk).__name__ != "VisionTransformer"
        or trunk.num_prefix_tokens
        or type(trunk.attn_pool).__name__ != "AttentionPoolLatent"
        or type(trunk.norm_pre).__name__ != "Identity"
        or type(trunk.blocks[0].attn.q_norm).__name__ != "Identity"
    ):
        return None
    block = trunk.blocks[0]
    width = trunk.embed_dim
    size = cfg.get("image_size", 224)
    activation = _activation_of(block.mlp.act)
    patch = trunk.patch_embed.patch_size
    if activation is None or patch[0] != patch[1] or trunk.patch_embed.img_size != (size, size):
        return None
    return {
        "name": "vit",
        "image_size": size,
        "patch": patch[0],
        "width": width,
        "depth": len(trunk.blocks),
        "heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / width,
        "activation": activation,
        "eps": block.norm1.eps,
        "cls": 0,
        "pooling": "map",
        "layer_scale": None if type(block.ls1).__name__ == "Identity" else 1e-5,
        "patch_dropout": cfg.get("patch_dropout", 0.0),
    }


def _activation_of(module: Any) -> str | None:
    """The name of an activation, identified by its values."""
    x = torch.linspace(-4, 4, 101)
    for name, function in ACTIVATIONS.items():
        if torch.allclose(module(x.clone()), function(x), atol=1e-6):
            return name
    return None


def _refuse(where: str, part: str, cfg: Mapping[str, Any], kind: type, lacking: str) -> None:
    """Raise InputError for options that our towers lack, unless they have open_clip's default."""
    default = {item.name: item.default for item in fields(kind)}
    for key, value in cfg.items():
        if key not in default or (key in lacking.split() and value != default[key]):
            raise InputError(
                f"{where} is not supported: its {part} tower has {key}={value!r}, which our towers lack"
            )


def _activation(quick: bool, options: Mapping[str, Any] | None) -> str:
    if quick:
        return "quick_gelu"
    return "gelu_tanh" if (options or {}).get("approximate") == "tanh" else "gelu"


def _text(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The spec of the text tower. Towers that attend to padding always get texts padded to the
    context."""
    from open_clip.model import CLIPTextCfg

    cfg = config["text_cfg"]
    _refuse(where, "text", cfg, CLIPTextCfg, f"{BLOCKS} final_ln_after_pool")
    full = asdict(CLIPTextCfg(**cfg))
    poolings = {"argmax": "eot", "eos": "eot", "last": "last", "first": "first"}
    pooling = "cls" if full["embed_cls"] else poolings.get(full["pool_type"])
    if pooling is None or (pooling == "cls" and full["no_causal_mask"]):
        raise InputError(f"{where} is not supported: its text tower pools no token that ours can")
    attends_to_pads = full["no_causal_mask"] or pooling in ("last", "cls")
    width = full["width"]
    return {
        "name": "text",
        "vocab_size": full["vocab_size"],
        "context": full["context_length"],
        "eot": {"argmax": full["vocab_size"] - 1, "eos": full["eos_id"]}.get(full["pool_type"])
        if pooling == "eot"
        else None,
        "pad": full["pad_id"] if pooling == "cls" else None,
        "padding": "max" if attends_to_pads else "longest",
        "width": width,
        "depth": full["layers"],
        "heads": full["heads"],
        "mlp_ratio": int(width * full["mlp_ratio"]) / width,
        "activation": _activation(config.get("quick_gelu", False), full["act_kwargs"]),
        "eps": (full["norm_kwargs"] or {}).get("eps", 1e-5),
        "causal": not full["no_causal_mask"],
        "pooling": pooling,
        "layer_scale": full["ls_init_value"],
    }


def _projection(cfg: Mapping[str, Any]) -> str:
    if cfg.get("proj_type", "linear") == "none":
        return "none"
    return "affine" if cfg.get("proj_bias") else "linear"


MAMMUT = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
    "ls_init_value": None,
    "cross_attn_ratio": 1,
    "has_mlp": True,
    "does_full_decoding": True,
    "output_tokens": True,
}
"""The options of MaMMUT's text stack in the fork of open_clip that trained openMaMMUT, with their
defaults."""


def _writing_text(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The spec of MaMMUT's text stack, which always gets texts padded to the context, and pools the
    pads as well."""
    cfg = config["text_cfg"]
    for key, value in cfg.items():
        if key not in MAMMUT or (key == "output_tokens" and not value):
            raise InputError(
                f"{where} is not supported: its text tower has {key}={value!r}, which our towers lack"
            )
    full = {**MAMMUT, **cfg}
    return {
        "name": "text",
        "vocab_size": full["vocab_size"],
        "context": full["context_length"],
        "padding": "max",
        "width": full["width"],
        "depth": full["layers"],
        "heads": full["heads"],
        "mlp_ratio": full["mlp_ratio"],
        "activation": _activation(config.get("quick_gelu", False), None),
        "causal": False,
        "pooling": "mean",
        "layer_scale": full["ls_init_value"],
        "cross": 0,
        "cross_every": full["cross_attn_ratio"],
        "cross_blocks": "apart" if full["has_mlp"] else "lean",
    }
