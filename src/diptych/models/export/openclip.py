"""Export to a folder that open_clip loads as `local-dir:FOLDER`: open_clip_config.json, weights,
tokenizer.

ViTs that pool a CLS token, the mean or queries use open_clip's own towers. SigLIP's attention pooling
exists only in timm's models, and so only in timm's sizes. Towers of timm and transformers are theirs
there too; for the latter, config.json is written. A captioner of open_clip's form goes as CoCa.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.tokenizers import Clip, Tokenizer
from diptych.models.export import _common as common
from diptych.models.model import Model
from diptych.models.multimodal import ContrastiveCaptioner, MultimodalLM
from diptych.models.pretrained.convert import back
from diptych.models.pretrained.files import read_json
from diptych.models.pretrained.openclip import DECODER
from diptych.models.pretrained.openclip.describe import (
    RESNETS,
    describe,
    siglip_image,
    timm_mlp,
)
from diptych.models.pretrained.openclip.rules import decoder_rules
from diptych.models.pretrained.openclip.texts import CONFIGS, PROJECTIONS

PACKAGES = ("open_clip", "timm")
INSTALL = "'diptych[openclip,vision]'"

GELU = {"activation": ["gelu", "gelu_tanh", "quick_gelu"]}
IMAGE = {"name": ["vit"], "stem": ["patch"], "registers": [0]} | GELU
OWN = IMAGE | {"cls": [1], "pooling": ["cls", "mean", "queries"]}
SIGLIP = IMAGE | {"cls": [0], "pooling": ["map"], "pre_norm": [False]}
TIMM = {"name": ["timm", "vit"], "levels": [False], "head_conv": [True]}
WORDS = {"name": ["text"], "cross": [None], "pooling": ["eot", "last", "first", "cls"]} | GELU
HF = {"name": ["hf"], "padding": ["longest"], "pooling": ["mean", "first"]}
POOLERS = {"mean": "mean_pooler", "first": "cls_last_hidden_state_pooler"}


def misfit(model: Model) -> str | None:
    """Why open_clip's towers do not compute what this model does, or None."""
    config = model.encoder.config()
    if problem := common.pooled_apart(config) or _image_misfit(config) or _text_misfit(config):
        return problem
    if model.preprocess.ratio is not None:
        return f"its images are padded (ratio={model.preprocess.ratio})"
    if model.preprocess.fill == "border":
        return "its images are padded with the colour of their border"
    if model.preprocess.margin is not None:
        return f"its images are scaled with a margin ({model.preprocess.margin:.3f})"
    return None


def _image_misfit(config: Mapping[str, Any]) -> str | None:
    image = config["image"]
    text = config["text"]
    projection = config["image_projection"]
    if image["name"] == "timm":
        if problem := common.differs(image, TIMM, "image"):
            return problem
        known = _timm_projection(config) is not None
        return None if known else f"it has image_projection={projection!r}"
    pooled = image.get("pooling") == "map"
    if problem := common.differs(image, SIGLIP if pooled else OWN, "image"):
        return problem
    if projection != ("none" if pooled else "linear"):
        return f"it has image_projection={projection!r}"
    if pooled:
        return None if _timm_name(image) else "timm names no SigLIP tower of its size"
    if image["pooling"] == "queries" and image["pool_width"] != config["embed_dim"]:
        return f"its queries are {image['pool_width']} wide, its embeddings {config['embed_dim']}"
    quick = image["activation"] == "quick_gelu"
    if text["name"] == "text" and quick != (text["activation"] == "quick_gelu"):
        return "only one of its towers has quick_gelu"
    return None


def _text_misfit(config: Mapping[str, Any]) -> str | None:
    text = config["text"]
    foreign = text["name"] == "hf"
    if problem := common.differs(text, HF if foreign else WORDS, "text"):
        return problem
    if foreign and config["text_projection"] not in PROJECTIONS.values():
        return f"it has text_projection={config['text_projection']!r}"
    if text.get("pooling") == "cls" and text["padding"] != "max":
        return "the learned token behind its texts sees no padding, which open_clip's does"
    if not foreign and not text["causal"] and text["padding"] != "max":
        return "its text tower is not causal and does not read padding"
    return None


def notes(model: Model) -> list[str]:
    """Inherent differences of the target."""
    found = [common.CROP] * (
        model.preprocess.resize == "shortest" and model.preprocess.crop != "round"
    )
    if not isinstance(model.tokenizer, Clip) and getattr(model.tokenizer, "clean", None) is None:
        found.append(
            "open_clip mends texts with broken encodings or HTML entities before it splits them; we do not"
        )
    if model.encoder.text is not None and _hf_name(model.encoder.text.spec) == ".":
        found.append("open_clip looks for the text tower's config.json in the working directory")
    if isinstance(model.delivered, ContrastiveCaptioner) and _decoder(model) is None:
        found.append("its decoder is left out: open_clip has none like it")
    return found


def write(model: Model, folder: Path) -> None:
    """Write open_clip_config.json, open_clip_model.safetensors and, unless it is CLIP's, the
    tokenizer's files."""

    tokenizer = common.tokenizer_of(model)
    preprocess = model.preprocess
    config = _config(model, tokenizer)
    foreign = "hf_model_name" in config["text_cfg"]
    if not isinstance(tokenizer, Clip):
        common.write_tokenizer(tokenizer, folder, own_pad=foreign)
    if foreign:
        made = {**model.encoder.text.spec["config"], "pad_token_id": tokenizer.pad}  # type: ignore[union-attr]
        common.write_json(folder / "config.json", made)
    reported = {
        "size": preprocess.side,
        "mode": "RGB",
        "mean": preprocess.mean,
        "std": preprocess.std,
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize,
        "fill_color": preprocess.fill[0],
    }
    common.write_json(
        folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": reported}
    )
    plain = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.device("meta"), _quiet():
        theirs = _kind(config)(**{**plain, **_located(config, folder)}).state_dict()
    rules = describe({**config, **_located(config, folder)}, str(folder))[1]
    state = common.tensors(model.encoder, patch_bias="timm_model_name" in config["vision_cfg"])
    made = back(state, theirs, rules)
    decoder = _decoder(model)
    if decoder is not None:
        words = {name: value for name, value in theirs.items() if name.startswith(DECODER)}
        made |= back(decoder.state_dict(), words, decoder_rules(config))
    save_file(made, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def _kind(config: Mapping[str, Any]) -> Any:
    """open_clip's class of a config."""
    import open_clip

    if "multimodal_cfg" in config:
        return open_clip.CoCa
    return open_clip.CustomTextCLIP if "custom_text" in config else open_clip.CLIP


def _decoder(model: Model) -> MultimodalLM | None:
    """The decoder of a model that is open_clip's CoCa, or None."""
    captioner = model.delivered
    if not isinstance(captioner, ContrastiveCaptioner) or captioner.encoder is not model.encoder:
        return None
    lm = captioner.lm
    text = model.encoder.config()["text"]
    alike = text["pooling"] == "cls" and text["mlp_ratio"] == 4
    if not isinstance(lm, MultimodalLM) or lm.form != "apart" or not alike:
        return None
    return lm if lm.config()["memory_width"] == lm.tower.width else None


def _multimodal(decoder: MultimodalLM) -> dict[str, Any]:
    """The part of a config for a decoder."""
    like = decoder.tower.config
    layers: Any = decoder.decoder.layers
    return {
        "context_length": like.context,
        "vocab_size": like.vocab_size,
        "width": like.width,
        "heads": layers[0].attn.heads,
        "layers": len(layers) // 2,
        **({"ls_init_value": like.layer_scale} if like.layer_scale is not None else {}),
    }


def _located(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The text part of a config whose tower of transformers is that of a folder, else nothing."""
    cfg = config["text_cfg"]
    if "hf_model_name" not in cfg:
        return {}
    return {"text_cfg": {**cfg, "hf_model_name": str(folder), "hf_model_pretrained": False}}


def embed(
    folder: Path, images: Sequence[Image.Image], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, E) of images and of texts, computed and preprocessed by open_clip."""
    import open_clip

    with _quiet(), torch.inference_mode():
        name = f"local-dir:{folder}"
        config = read_json(folder / "open_clip_config.json")["model_cfg"]
        made: Any = open_clip.create_model_and_transforms(name, **_located(config, folder))
        model = made[0].eval()
        preprocess = made[2]
        pixels = torch.stack([preprocess(image) for image in images])
        ids = open_clip.get_tokenizer(name)(list(texts))
        found = model.encode_image(pixels), model.encode_text(ids)
        image_vectors, text_vectors = (F.normalize(x, dim=-1) for x in found)
    return image_vectors, text_vectors


def _config(model: Model, tokenizer: Tokenizer) -> dict[str, Any]:
    """open_clip's config of the model, the inverse of `pretrained.openclip.describe`."""
    dual = model.encoder.config()
    image = dual["image"]
    text = dual["text"]
    text_cfg = (
        _hf_words(text, dual["text_projection"], tokenizer)
        if text["name"] == "hf"
        else _words(text, dual["text_projection"], tokenizer)
    )
    config: dict[str, Any] = {
        "embed_dim": dual["embed_dim"],
        "init_logit_scale": math.log(dual["logit_scale"]["init"]),
        "vision_cfg": _vision(dual),
        "text_cfg": text_cfg,
    }
    if "quick_gelu" in (text.get("activation"), image.get("activation")):
        config["quick_gelu"] = True
    if dual["logit_bias"] is not None:
        config["init_logit_bias"] = dual["logit_bias"]
    custom = {
        "proj_type",
        "proj_bias",
        "no_causal_mask",
        "ls_init_value",
        "embed_cls",
        "hf_model_name",
    }
    if text_cfg.keys() & custom or text_cfg.get("pool_type") != "argmax":
        config["custom_text"] = True
    decoder = _decoder(model)
    if decoder is not None:
        config["multimodal_cfg"] = _multimodal(decoder)
        config["vision_cfg"]["output_tokens"] = True
        config["text_cfg"]["output_tokens"] = True
    return config


def _vision(dual: Mapping[str, Any]) -> dict[str, Any]:
    spec = dual["image"]
    if spec["name"] == "timm":
        return _timm_vision(dual)
    if spec["pooling"] == "map":
        return {
            "image_size": spec["image_size"],
            "timm_model_name": _timm_name(spec),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        }
    queries = {
        "attentional_pool": True,
        "attn_pooler_queries": spec.get("queries"),
        "attn_pooler_heads": spec.get("pool_heads"),
    }
    return {
        **_common(spec),
        "image_size": spec["image_size"],
        "patch_size": spec["patch"],
        "head_width": spec["width"] // common.heads(spec),
        "no_ln_pre": not spec["pre_norm"],
        "pool_type": "avg" if spec["pooling"] == "mean" else "tok",
        "final_ln_after_pool": spec["norm_after_pool"],
        "patch_dropout": spec["patch_dropout"],
        **(queries if spec["pooling"] == "queries" else {}),
    }


def _timm_vision(dual: Mapping[str, Any]) -> dict[str, Any]:
    spec = dual["image"]
    size = {"image_size": spec["image_size"]}
    found = next((key for key, name in RESNETS.items() if name == spec["model"]), None)
    if found is not None and dual["image_projection"] == "affine" and spec.get("pool") is None:
        return {**size, "width": found[0], "layers": list(found[1:])}
    return {
        **size,
        "timm_model_name": spec["model"],
        "timm_model_pretrained": False,
        "timm_pool": spec.get("pool") or "",
        **(_timm_projection(dual) or {}),
        **({"timm_drop_path": spec["drop_path"]} if spec["drop_path"] else {}),
    }


def _timm_projection(dual: Mapping[str, Any]) -> dict[str, Any] | None:
    """open_clip's options for the projection of a timm tower, or None where there are none."""
    pool = dual["image"].get("pool")
    projection = dual["image_projection"]
    options: dict[str, dict[str, Any]] = {
        "linear": {"timm_proj": "linear"},
        "affine": {"timm_proj": None} if pool else {"timm_proj": "linear", "timm_proj_bias": True},
        **({"none": {"timm_proj": "none"}} if pool else {}),
        **{
            timm_mlp(dual["embed_dim"], bias): {"timm_proj": "mlp", "timm_proj_bias": bias}
            for bias in (False, True)
        },
    }
    return options.get(projection)


def _hf_words(spec: Mapping[str, Any], projection: str, tokenizer: Tokenizer) -> dict[str, Any]:
    kinds = {head: kind for kind, head in PROJECTIONS.items()}
    return {
        "hf_model_name": _hf_name(spec),
        "hf_model_pretrained": False,
        "hf_proj_type": kinds[projection],
        "hf_pooler_type": POOLERS[spec["pooling"]],
        "context_length": tokenizer.context,
        **_tokenizer(tokenizer),
    }


def _hf_name(spec: Mapping[str, Any]) -> str | None:
    """The repository of the tower's config if open_clip's configurations name it, else ".", where
    config.json is; None for a tower of ours."""
    if spec["name"] != "hf":
        return None
    own = _values(spec["config"])
    return next((name for name, config in CONFIGS.items() if _values(config) == own), ".")


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """All values of a config of transformers, in one form."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**config).to_dict()


def _words(spec: Mapping[str, Any], projection: str, tokenizer: Tokenizer) -> dict[str, Any]:
    cfg = {
        **_common(spec),
        "context_length": spec["context"],
        "vocab_size": spec["vocab_size"],
        "heads": common.heads(spec),
        "pool_type": spec["pooling"],
    }
    if spec["pooling"] == "eot":
        highest = tokenizer.eot == spec["vocab_size"] - 1
        cfg |= {"pool_type": "argmax"} if highest else {"pool_type": "eos", "eos_id": tokenizer.eot}
    if not spec["causal"]:
        cfg["no_causal_mask"] = True
    if projection != "linear":
        cfg |= {"proj_type": "none"} if projection == "none" else {"proj_bias": True}
    if spec["pooling"] == "cls":
        cfg |= {"pool_type": "argmax", "embed_cls": True, "pad_id": spec["pad"] or 0}
    return {**cfg, **_tokenizer(tokenizer)}


def _tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    cfg: dict[str, Any] = {}
    clean = getattr(tokenizer, "clean", None)
    if not isinstance(tokenizer, Clip):
        cfg["hf_tokenizer_name"] = (
            "."  # with local-dir: open_clip reads the folder, whatever the value
        )
    if clean is not None and clean != "lower":
        cfg["tokenizer_kwargs"] = {"clean": clean}
    return cfg


def _common(spec: Mapping[str, Any]) -> dict[str, Any]:
    ratio = spec["mlp_ratio"]
    hidden = common.hidden(spec)
    cfg = {
        "width": spec["width"],
        "layers": spec["depth"],
        "norm_kwargs": {"eps": spec["eps"]},
        "mlp_ratio": ratio
        if int(spec["width"] * ratio) == hidden
        else (hidden + 0.5) / spec["width"],
    }
    if spec["layer_scale"] is not None:
        cfg["ls_init_value"] = spec["layer_scale"]
    if spec["activation"] == "gelu_tanh":
        cfg["act_kwargs"] = {"approximate": "tanh"}
    return cfg


def _timm_name(spec: Mapping[str, Any]) -> str | None:
    """The name of timm's SigLIP tower that is equivalent to the spec, or None."""
    import timm

    computes = ("image_size", "patch", "width", "depth", "activation", "eps", "layer_scale")
    names = timm.list_models("*siglip*")
    sized = [
        name
        for name in names
        if f"patch{spec['patch']}_" in name and name.endswith(f"_{spec['image_size']}")
    ]
    for name in sized:
        found = siglip_image({"timm_model_name": name, "image_size": spec["image_size"]})
        if (
            found is not None
            and all(found[key] == spec[key] for key in computes)
            and found["heads"] == common.heads(spec)
            and common.hidden(found) == common.hidden(spec)
        ):
            return name
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without open_clip's warnings, which go to the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
