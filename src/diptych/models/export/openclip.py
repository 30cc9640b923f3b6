"""Export to a folder that open_clip loads as `local-dir:FOLDER`: open_clip_config.json, weights,
tokenizer.

ViTs that pool a CLS token or the mean use open_clip's own towers. SigLIP's attention pooling exists
only in timm's models, and so only in timm's sizes.
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
from diptych.errors import InputError
from diptych.models.export import _common as common
from diptych.models.model import Model
from diptych.models.pretrained.convert import back
from diptych.models.pretrained.openclip import TEXT, TIMM_VIT, VIT, timm_image

PACKAGES = ("open_clip", "timm")
INSTALL = "'diptych[openclip,vision]'"

IMAGE = {"name": ["vit"], "stem": ["patch"], "registers": [0], "mask_token": [False]}
OWN = IMAGE | {"cls": [1], "pooling": ["cls", "mean"]}
TIMM = IMAGE | {"cls": [0], "pooling": ["map"], "pre_norm": [False]}
WORDS = {"name": ["text"], "cross": [None], "pooling": ["eot", "last", "first"]}


def misfit(model: Model) -> str | None:
    """Why open_clip's towers do not compute what this model does, or None."""
    config = model.encoder.config()
    image = config["image"]
    text = config["text"]
    pooled = image.get("pooling") == "map"
    if problem := common.differs(image, TIMM if pooled else OWN, "image") or common.differs(
        text, WORDS, "text"
    ):
        return problem
    if model.preprocess.ratio is not None:
        return f"its images are padded (ratio={model.preprocess.ratio})"
    if model.preprocess.fill == "border":
        return "its images are padded with the colour of their border"
    if model.preprocess.margin is not None:
        return f"its images are scaled with a margin ({model.preprocess.margin:.3f})"
    if not text["causal"] and text["padding"] != "max":
        return "its text tower is not causal and does not read padding"
    if config["image_projection"] != ("none" if pooled else "linear"):
        return f"it has image_projection={config['image_projection']!r}"
    if pooled:
        return None if _timm_name(image) else "timm names no SigLIP tower of its size"
    if (image["activation"] == "quick_gelu") != (text["activation"] == "quick_gelu"):
        return "only one of its towers has quick_gelu"
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
    return found


def write(model: Model, folder: Path) -> None:
    """Write open_clip_config.json, open_clip_model.safetensors and, unless it is CLIP's, the
    tokenizer's files."""
    import open_clip

    tokenizer = common.tokenizer_of(model)
    preprocess = model.preprocess
    config = _config(model, tokenizer)
    if not isinstance(tokenizer, Clip):
        common.write_tokenizer(tokenizer, folder)
    state = common.tensors(model.encoder, patch_bias="timm_model_name" in config["vision_cfg"])
    reported = {
        "size": preprocess.size,
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
        theirs = (open_clip.CustomTextCLIP if "custom_text" in config else open_clip.CLIP)(
            **plain
        ).state_dict()
    rules = [*TEXT, *(TIMM_VIT if "timm_model_name" in config["vision_cfg"] else VIT)]
    save_file(
        back(state, theirs, rules),
        folder / "open_clip_model.safetensors",
        metadata={"format": "pt"},
    )


def embed(
    folder: Path, images: Sequence[Image.Image], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, E) of images and of texts, computed and preprocessed by open_clip."""
    import open_clip

    with _quiet(), torch.inference_mode():
        name = f"local-dir:{folder}"
        made: Any = open_clip.create_model_and_transforms(name)
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
    config: dict[str, Any] = {
        "embed_dim": dual["embed_dim"],
        "init_logit_scale": math.log(dual["logit_scale"]["init"]),
        "vision_cfg": _timm_vision(image) if image["pooling"] == "map" else _vision(image),
        "text_cfg": _words(text, dual["text_projection"], tokenizer),
    }
    if text["activation"] == "quick_gelu":
        config["quick_gelu"] = True
    if dual["logit_bias"] is not None:
        config["init_logit_bias"] = dual["logit_bias"]
    cfg = config["text_cfg"]
    if (
        cfg.keys() & {"proj_type", "proj_bias", "no_causal_mask", "ls_init_value"}
        or cfg["pool_type"] != "argmax"
    ):
        config["custom_text"] = True
    return config


def _vision(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_common(spec),
        "image_size": spec["image_size"],
        "patch_size": spec["patch"],
        "head_width": spec["width"] // common.heads(spec),
        "no_ln_pre": not spec["pre_norm"],
        "pool_type": {"cls": "tok", "mean": "avg"}[spec["pooling"]],
        "final_ln_after_pool": spec["norm_after_pool"],
        "patch_dropout": spec["patch_dropout"],
    }


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


def _timm_vision(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image_size": spec["image_size"],
        "timm_model_name": _timm_name(spec),
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }


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
        try:
            found = timm_image(
                {
                    "timm_model_name": name,
                    "timm_pool": "map",
                    "timm_proj": "none",
                    "image_size": spec["image_size"],
                },
                name,
            )
        except InputError:
            continue
        if (
            all(found[key] == spec[key] for key in computes)
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
