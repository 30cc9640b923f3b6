"""Models of open_clip: `openclip:NAME[/TAG]`; configs, tags and preprocessing are read from the
installed library.

ViT CLIP (GELU and QuickGELU, CLIPA) and SigLIP are rebuilt in our own towers; other architectures
raise InputError.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Clip, Tokenizer, from_folder
from diptych.data.tokenizers.hf import has_tokenizer
from diptych.errors import InputError, brief, unknown
from diptych.models.model import Model
from diptych.models.pretrained.convert import (
    Rule,
    fill,
    halves,
    row,
    rows,
    scalar,
    square,
    thirds,
    turned,
    under,
)
from diptych.models.pretrained.files import read_json, read_weights
from diptych.towers.nn.transformer import ACTIVATIONS

log = logging.getLogger(__name__)

W = r"(?P<w>weight|bias)"
LAYER = r"(?P<layer>\d+)\."

BLOCK = [
    Rule(rf"ln_1\.{W}", (r"norm1.\g<w>",)),
    Rule(rf"attn\.in_proj_{W}", (r"attn.q.\g<w>", r"attn.k.\g<w>", r"attn.v.\g<w>"), thirds),
    Rule(rf"attn\.out_proj\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"ln_2\.{W}", (r"norm2.\g<w>",)),
    Rule(rf"mlp\.c_fc\.{W}", (r"mlp.fc1.\g<w>",)),
    Rule(rf"mlp\.c_proj\.{W}", (r"mlp.fc2.\g<w>",)),
    Rule(r"ls_(?P<n>[12])\.gamma", (r"scale\g<n>.gamma",)),
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
TEXT = [  # CLIP has its text tower at the top, CustomTextCLIP under "text."
    *under(
        rf"(?:text\.)?transformer\.resblocks\.{LAYER}", r"text.transformer.layers.\g<layer>.", BLOCK
    ),
    Rule(r"(?:text\.)?token_embedding\.weight", ("text.table.weight",)),
    Rule(r"(?:text\.)?positional_embedding", ("text.positions",)),
    Rule(rf"(?:text\.)?ln_final\.{W}", (r"text.norm.\g<w>",)),
    Rule(r"(?:text\.)?text_projection", ("text_projection.weight",), turned),
    Rule(rf"(?:text\.)?text_projection\.{W}", (r"text_projection.\g<w>",)),
    Rule(r"(?:text\.)?attn_mask"),
    Rule("logit_scale", ("logit_scale.value",), scalar),
    Rule("logit_bias", ("logit_bias",), scalar),
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
TIMM_VIT = [
    *under(rf"visual\.trunk\.blocks\.{LAYER}", r"image.transformer.layers.\g<layer>.", TIMM_BLOCK),
    *under(r"visual\.trunk\.attn_pool\.", "image.pool.", TIMM_POOL),
    Rule(rf"visual\.trunk\.patch_embed\.proj\.{W}", (r"image.patch_embed.\g<w>",)),
    Rule(r"visual\.trunk\.pos_embed", ("image.positions",), rows),
    Rule(rf"visual\.trunk\.norm\.{W}", (r"image.norm.\g<w>",)),
]


def load(name: str, weights: Path | None = None) -> Model:
    """Load the model NAME of open_clip with the weights of TAG, or of a local file or folder.

    The preprocessing is that of the TAG; without one, that of an open_clip_config.json next to the
    weights, else that of open_clip's `create_model_and_transforms(NAME)`. Raises InputError for
    unknown names and tags, an activation other than the tag's, weights that cannot be fetched or do
    not fit, and architectures that are not supported.
    """
    open_clip = _open_clip()
    name, _, tag = name.partition("/")
    where = f"openclip:{name}/{tag}" if tag else f"openclip:{name}"
    config = open_clip.get_model_config(name)
    if config is None:
        raise unknown("open_clip model", name, open_clip.list_models())
    tagged = _tag(open_clip, name, tag, config) if tag else None
    dual, rules = describe(config, where)
    folder = None if weights is None else weights if weights.is_dir() else weights.parent
    if weights is None:
        weights = _download(open_clip, where, tagged)
    dual["image"]["preprocess"] = _preprocess(open_clip, config, tagged, folder, where).to_dict()
    encoder = fill(dual, read_weights(weights), rules, f"{where} with the weights {weights}")
    tokenizer = _tokenizer(config["text_cfg"], dual["text"]["padding"], folder, where)
    return Model(encoder, tokenizer, encoder.image.preprocess, name=where)


def describe(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Rule]]:
    """The config of our dual encoder for a config of open_clip, and the rules for its tensors.

    Raises InputError, which names the model as `where`, for architectures that are not supported.
    """
    image, rules = _image(config, where)
    bias = config.get("init_logit_bias")
    dual = {
        "image": image,
        "text": _text(config, where),
        "embed_dim": config["embed_dim"],
        "logit_scale": {
            "init": math.exp(config.get("init_logit_scale", math.log(1 / 0.07))),
            "clamp": [1.0, 100.0] if bias is None else None,
        },
        "logit_bias": bias,
        "image_projection": "none" if rules is TIMM_VIT else "linear",
        "text_projection": _projection(config["text_cfg"]),
    }
    return dual, [*TEXT, *rules]


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise InputError(
            "openclip: models need open_clip_torch; pip install 'diptych[openclip]'"
        ) from None
    return open_clip


def _tag(open_clip: Any, name: str, tag: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """open_clip's config of a tag. Raises InputError for a tag with another activation than
    NAME's."""
    tagged = open_clip.get_pretrained_cfg(name, tag)
    plain = name.removesuffix("-quickgelu")
    other = plain if name != plain else f"{name}-quickgelu"
    if not tagged and not open_clip.get_pretrained_cfg(other, tag):
        raise unknown(f"tag of {name}", tag, open_clip.list_pretrained_tags_by_model(name))
    if not tagged or bool(tagged.get("quick_gelu")) != bool(config.get("quick_gelu")):
        names = ("GELU", "QuickGELU") if config.get("quick_gelu") else ("QuickGELU", "GELU")
        raise InputError(
            f"openclip:{name}/{tag}: its weights are of {names[0]}, {name} computes {names[1]}; "
            f"use openclip:{other}/{tag}"
        )
    return tagged


def _download(open_clip: Any, where: str, tagged: Mapping[str, Any] | None) -> Path:
    if tagged is None:
        name = where.removeprefix("openclip:")
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "no tags"
        raise InputError(
            f"{where} names no weights; write {where}/TAG ({tags}) or name a local file with --weights FILE (weights=)"
        )
    from open_clip.pretrained import download_pretrained

    try:
        found = download_pretrained(dict(tagged))
    except Exception as error:  # the network raises many kinds
        source = tagged.get("hf_hub") or tagged.get("url")
        raise InputError(
            f"the weights of {where} cannot be fetched from {source} ({brief(error)}); "
            "fetch them elsewhere and name the file: --weights FILE (weights=)"
        ) from error
    return Path(found)


def _preprocess(
    open_clip: Any,
    config: Mapping[str, Any],
    tagged: Mapping[str, Any] | None,
    folder: Path | None,
    where: str,
) -> Preprocess:
    """The preprocessing: size from the architecture, the rest from the tag, the folder, or
    open_clip's default."""
    from open_clip.transform import PreprocessCfg

    values = asdict(PreprocessCfg())
    stored = folder / "open_clip_config.json" if folder else None
    if stored is not None and stored.is_file():
        reported = read_json(stored)
        _compare(config, reported.get("model_cfg", {}), where, stored)
        given = reported.get("preprocess_cfg", {})
        for key in ("mean", "std", "interpolation", "resize_mode"):
            if tagged and key in given and _plain(given[key]) != _plain(tagged.get(key)):
                raise InputError(
                    f"{stored} has {key} {given[key]}, the tag of {where} {tagged.get(key)}; leave out "
                    "the tag, or give its own weights"
                )
        values.update({key: value for key, value in given.items() if value is not None})
    values.update({key: value for key, value in (tagged or {}).items() if key in values})
    return Preprocess.from_dict(
        {
            "size": square(config["vision_cfg"].get("image_size", 224), where),
            "resize": values["resize_mode"],
            **{key: values[key] for key in ("interpolation", "mean", "std")},
            # the background of padded images; else it only affects transparent ones
            **({"fill": (values["fill_color"],) * 3} if values["resize_mode"] == "longest" else {}),
        }
    )


def _compare(
    config: Mapping[str, Any], reported: Mapping[str, Any], where: str, path: Path
) -> None:
    """Raise InputError if a folder describes another model than NAME; the activation is compared
    first."""
    if not reported:
        return
    ours = dict(config)
    theirs = dict(reported)
    for key in sorted(
        {*ours, *theirs} - {"custom_text"}, key=lambda key: (key != "quick_gelu", key)
    ):
        a = ours.get(key)
        b = theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            skip = {
                "timm_model_pretrained",
                "hf_model_pretrained",
                "hf_tokenizer_name",
                "output_tokens",
            }
            differ = [
                f"{key}.{part}"
                for part in sorted({*a, *b} - skip)
                if _plain(a.get(part)) != _plain(b.get(part))
            ]
        else:
            differ = [key] if _plain(a or None) != _plain(b or None) else []
        if differ:
            raise InputError(
                f"{path} describes another model than {where}: {differ[0]} differs; name the model that "
                "these weights belong to"
            )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _refuse(
    where: str, part: str, config: Mapping[str, Any], defaults: type, known: set[str]
) -> None:
    """Raise InputError for options that our towers lack, unless they have open_clip's default."""
    default = {item.name: item.default for item in fields(defaults)}
    odd = [key for key, value in config.items() if key not in known and value != default.get(key)]
    if odd:
        raise InputError(
            f"{where} is not supported: its {part} tower has {odd[0]}={config[odd[0]]!r}; ViT CLIP and "
            "SigLIP are (names ViT-…)"
        )


def _activation(quick: bool, options: Mapping[str, Any] | None) -> str:
    if quick:
        return "quick_gelu"
    return "gelu_tanh" if (options or {}).get("approximate") == "tanh" else "gelu"


def _image(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Rule]]:
    """The spec of the image tower, and the rules for its tensors."""
    from open_clip.model import CLIPVisionCfg

    cfg = config["vision_cfg"]
    if cfg.get("timm_model_name"):
        return timm_image(cfg, where), TIMM_VIT
    if "multimodal_cfg" in config or not isinstance(cfg.get("layers", 12), int):
        kind = "CoCa" if "multimodal_cfg" in config else "ResNet"
        raise InputError(
            f"{where} is not supported: it is a {kind}; ViT CLIP and SigLIP are (names ViT-…)"
        )
    known = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "ls_init_value", "patch_dropout",
             "no_ln_pre", "final_ln_after_pool", "pool_type", "output_tokens", "act_kwargs", "norm_kwargs",
             "pos_embed_type"}  # fmt: skip
    _refuse(where, "image", cfg, CLIPVisionCfg, known)
    full = asdict(CLIPVisionCfg(**cfg))
    if full["pool_type"] == "none":
        raise InputError(f"{where} is not supported: its image tower does not pool")
    width = full["width"]
    spec = {
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
        "pooling": {"tok": "cls", "avg": "mean"}[full["pool_type"]],
        "norm_after_pool": full["final_ln_after_pool"],
        "layer_scale": full["ls_init_value"],
        "patch_dropout": full["patch_dropout"],
    }
    return spec, VIT


def timm_image(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The spec of a timm ViT with attention pooling (SigLIP), read from timm's module on the meta
    device."""
    import timm

    name = cfg["timm_model_name"]
    with torch.device("meta"):
        trunk: Any = timm.create_model(name, num_classes=0)
    if (
        type(trunk).__name__ != "VisionTransformer"
        or cfg.get("timm_pool") != "map"
        or cfg.get("timm_proj", "linear") not in ("", "none")
        or trunk.num_prefix_tokens
        or type(trunk.attn_pool).__name__ != "AttentionPoolLatent"
        or type(trunk.norm_pre).__name__ != "Identity"
        or type(trunk.blocks[0].attn.q_norm).__name__ != "Identity"
    ):
        raise InputError(
            f"{where} is not supported: its image tower is timm's {name}; ViT CLIP and SigLIP are"
        )
    block = trunk.blocks[0]
    width = trunk.embed_dim
    size = square(trunk.patch_embed.img_size, where)
    if size != square(cfg.get("image_size", 224), where):
        raise InputError(
            f"{where} says {cfg['image_size']} pixels, its image tower {name} takes {size}"
        )
    return {
        "name": "vit",
        "image_size": size,
        "patch": square(trunk.patch_embed.patch_size, where),
        "width": width,
        "depth": len(trunk.blocks),
        "heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / width,
        "activation": _activation_of(block.mlp.act, where),
        "eps": block.norm1.eps,
        "cls": 0,
        "pooling": "map",
        "layer_scale": None if type(block.ls1).__name__ == "Identity" else 1e-5,
        "patch_dropout": cfg.get("patch_dropout", 0.0),
    }


def _activation_of(module: Any, where: str) -> str:
    """The name of an activation, identified by its values."""
    x = torch.linspace(-4, 4, 101)
    for name, function in ACTIVATIONS.items():
        if torch.allclose(module(x.clone()), function(x), atol=1e-6):
            return name
    raise InputError(f"{where} is not supported: its activation is {type(module).__name__}")


def _text(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The spec of the text tower. Towers that attend to padding always get texts padded to the
    context."""
    from open_clip.model import CLIPTextCfg

    cfg = config["text_cfg"]
    known = {"context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs", "width", "heads", "layers",
             "mlp_ratio", "ls_init_value", "pad_id", "eos_id", "no_causal_mask", "pool_type", "proj_bias", "proj_type",
             "output_tokens", "act_kwargs", "norm_kwargs", "hf_model_pretrained"}  # fmt: skip
    _refuse(where, "text", cfg, CLIPTextCfg, known)
    full = asdict(CLIPTextCfg(**cfg))
    pooling = {"argmax": "eot", "eos": "eot", "last": "last", "first": "first"}.get(
        full["pool_type"]
    )
    if pooling is None:
        raise InputError(f"{where} is not supported: its text tower does not pool")
    width = full["width"]
    return {
        "name": "text",
        "vocab_size": full["vocab_size"],
        "context": full["context_length"],
        "eot": {"argmax": full["vocab_size"] - 1, "eos": full["eos_id"]}.get(full["pool_type"]),
        "padding": "max" if full["no_causal_mask"] or pooling == "last" else "longest",
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


def _tokenizer(
    cfg: Mapping[str, Any], padding: Any, folder: Path | None, where: str
) -> Tokenizer | None:
    """CLIP's tokenizer or, if the config names another, the one next to the weights or on the hub;
    None if unavailable."""
    options = dict(cfg.get("tokenizer_kwargs") or {})
    context = cfg.get("context_length", 77)
    if not cfg.get("hf_tokenizer_name"):
        return Clip(context, options.get("clean", "lower"), padding)
    source = folder if folder is not None and has_tokenizer(folder) else cfg["hf_tokenizer_name"]
    try:
        return from_folder(
            source,
            context=context,
            padding=padding,
            clean=options.pop("clean", "whitespace"),
            strip_end=options.pop("strip_sep_token", False),
            local=folder is not None,
        )
    except InputError as error:
        if source == folder:
            raise
        log.warning("%s comes without a tokenizer, it can embed images only: %s", where, error)
        return None
