"""CLIP and SigLIP in transformers' layout, and encoders of texts alone (`sentences`): `hf:REPO` from
the hub, `hf:FOLDER` from disk.

The towers of CLIP and SigLIP are built from the folder's config.json, and the weights are loaded into our own;
transformers' modules are not used.
"""

import logging
from pathlib import Path
from typing import Any

from diptych.data.images import CLIP_MEAN, CLIP_STD, HALF, Preprocess
from diptych.data.tokenizers import Clip, Tokenizer, from_folder
from diptych.data.tokenizers.hf import has_tokenizer, quiet
from diptych.errors import InputError, brief, unknown
from diptych.models.model import Model, TextModel
from diptych.models.pretrained import sentences
from diptych.models.pretrained.convert import Rule, fill, row, rows, scalar, square, thirds, under
from diptych.models.pretrained.files import NAMES, read_json, read_weights

log = logging.getLogger(__name__)

W = r"(?P<w>weight|bias)"
LAYER = r"encoder\.layers\.(?P<layer>\d+)\."

BLOCK = [
    Rule(rf"layer_norm(?P<n>[12])\.{W}", (r"norm\g<n>.\g<w>",)),
    Rule(rf"self_attn\.(?P<part>[qkv])_proj\.{W}", (r"attn.\g<part>.\g<w>",)),
    Rule(rf"self_attn\.out_proj\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"mlp\.fc(?P<n>[12])\.{W}", (r"mlp.fc\g<n>.\g<w>",)),
]
HEAD = [
    Rule("probe", ("probe",), rows),
    Rule(rf"attention\.in_proj_{W}", (r"attn.q.\g<w>", r"attn.k.\g<w>", r"attn.v.\g<w>"), thirds),
    Rule(rf"attention\.out_proj\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"layernorm\.{W}", (r"norm.\g<w>",)),
    Rule(rf"mlp\.fc(?P<n>[12])\.{W}", (r"mlp.fc\g<n>.\g<w>",)),
]
RULES = [
    *under(rf"vision_model\.{LAYER}", r"image.transformer.layers.\g<layer>.", BLOCK),
    *under(rf"text_model\.{LAYER}", r"text.transformer.layers.\g<layer>.", BLOCK),
    *under(r"vision_model\.head\.", "image.pool.", HEAD),
    Rule(rf"vision_model\.embeddings\.patch_embedding\.{W}", (r"image.patch_embed.\g<w>",)),
    Rule(r"vision_model\.embeddings\.class_embedding", ("image.cls",), row),
    Rule(r"vision_model\.embeddings\.position_embedding\.weight", ("image.positions",)),
    Rule(rf"vision_model\.pre_layrnorm\.{W}", (r"image.pre_norm.\g<w>",)),  # transformers' spelling
    Rule(rf"vision_model\.post_layernorm\.{W}", (r"image.norm.\g<w>",)),
    Rule(r"text_model\.embeddings\.token_embedding\.weight", ("text.table.weight",)),
    Rule(r"text_model\.embeddings\.position_embedding\.weight", ("text.positions",)),
    Rule(rf"text_model\.final_layer_norm\.{W}", (r"text.norm.\g<w>",)),
    Rule(rf"text_model\.head\.{W}", (r"text_projection.\g<w>",)),
    Rule(r"visual_projection\.weight", ("image_projection.weight",)),
    Rule(r"text_projection\.weight", ("text_projection.weight",)),
    Rule("logit_scale", ("logit_scale.value",), scalar),
    Rule("logit_bias", ("logit_bias",), scalar),
    Rule(r".*\.position_ids"),  # 0, 1, 2, …: in older files
]
ACTIVATION = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


def load(name: str, weights: Path | None = None) -> TextModel:
    """Load the model of a folder or a hub repository; `weights` is a file or folder of other
    weights.

    Missing preprocessor or tokenizer files are replaced by the standard ones of the model type,
    with a warning. Any other model with a vocabulary loads as an encoder of texts alone. Raises
    InputError for a model that cannot be fetched, does not fit its weights, or is not supported.
    """
    where = f"hf:{name}"
    folder = (
        weights
        if weights is not None and weights.is_dir()
        else _folder(name, with_weights=weights is None)
    )
    given = folder
    folder = sentences.transformer_of(folder)
    source = folder if weights is None or weights.is_dir() else weights
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} has no config.json; name a folder in transformers' layout or a hub repository"
        )
    if _kind(folder, where) not in ("clip", "siglip"):
        if source != folder:
            raise InputError(
                f"{where} is an encoder of texts, whose weights are in its own folder; name that alone"
            )
        return sentences.load(given, where)
    config = _config(folder)
    preprocess = _preprocess(folder, config, where)
    dual = _dual(config, preprocess, where)
    encoder = fill(dual, read_weights(source), RULES, f"{where} with the weights {source}")
    tokenizer = _tokenizer(folder, config, where)
    return Model(encoder, tokenizer, encoder.image.preprocess, name=where)


def _kind(folder: Path, where: str) -> str:
    """The model type in config.json. Raises InputError for one that transformers does not have."""
    kind = str(read_json(folder / "config.json").get("model_type"))
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:
        raise InputError("hf: models need transformers; pip install 'diptych[language]'") from None
    if kind not in CONFIG_MAPPING:
        raise unknown(f"model type of {where}", kind, ["clip", "siglip", "bert"])
    return kind


def _folder(name: str, with_weights: bool) -> Path:
    """The local folder `name`, or a snapshot of the hub's repository."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise InputError(
            f"there is no folder {name!r}; name a folder in transformers' layout or a hub repository"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            "hf: models from the hub need huggingface_hub; pip install 'diptych[language]'"
        ) from None
    wanted = ["*.json", "*.txt", "*.model"]
    weights = ["model*.safetensors", "*_Dense/*"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted + weights * with_weights))
        if (
            with_weights
            and not any((folder / file).is_file() for file in NAMES)
            and not any(folder.glob("*.index.json"))
        ):
            snapshot_download(name, allow_patterns=["pytorch_model*.bin"])
    except Exception as error:  # the network raises many kinds
        raise InputError(
            f"the hub's repository {name!r} cannot be fetched ({brief(error)}); "
            "fetch it elsewhere and name its folder: --weights FOLDER (weights=)"
        ) from error
    return folder


def _config(folder: Path) -> Any:
    """transformers' config, which adds the defaults that config.json leaves out."""
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(str(folder))
    except Exception as error:  # its validation raises many kinds
        raise InputError(f"{folder / 'config.json'} is not a config ({brief(error)})") from None


def _activation(name: str, where: str) -> str:
    if name not in ACTIVATION:
        raise unknown(f"activation of {where}", name, ACTIVATION)
    return ACTIVATION[name]


def _dual(config: Any, preprocess: Preprocess, where: str) -> dict[str, Any]:
    """The config of the dual encoder."""
    clip = config.model_type == "clip"
    image = config.vision_config
    text = config.text_config
    size = square(image.image_size, where)
    if preprocess.size != size:
        raise InputError(
            f"{where}: its preprocessor makes images of {preprocess.size} pixels, its image tower takes "
            f"{size}; make them equal"
        )
    if not clip and not image.vision_use_head:
        raise InputError(f"{where} is not supported: its image tower has no pooling head")

    def common(part: Any) -> dict[str, Any]:
        return {
            "width": part.hidden_size,
            "depth": part.num_hidden_layers,
            "heads": part.num_attention_heads,
            "mlp_ratio": part.intermediate_size / part.hidden_size,
            "activation": _activation(part.hidden_act, where),
            "eps": part.layer_norm_eps,
        }

    kind = (
        {"patch_bias": False, "cls_position": True, "pre_norm": True}
        if clip
        else {"cls": 0, "pooling": "map"}
    )
    return {
        "image": {
            "name": "vit",
            "image_size": size,
            "patch": square(image.patch_size, where),
            **common(image),
            **kind,
            "preprocess": preprocess.to_dict(),
        },
        "text": {
            "name": "text",
            "vocab_size": text.vocab_size,
            "context": text.max_position_embeddings,
            **common(text),
            "causal": clip,
            "pooling": "eot" if clip else "last",
            "padding": "longest" if clip else "max",
            "eot": _eot(text) if clip else None,
        },
        "embed_dim": config.projection_dim if clip else image.hidden_size,
        "logit_scale": {"clamp": [1.0, 100.0] if clip else None},
        "logit_bias": None if clip else 0.0,
        "image_projection": "linear" if clip else "none",
        "text_projection": "linear" if clip else "affine",
    }


def _eot(text: Any) -> int:
    """The id at which CLIP pools texts. A 2 is an old mistake in configs that means the highest
    id."""
    return text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id


def _preprocess(folder: Path, config: Any, where: str) -> Preprocess:
    """The preprocessing of preprocessor_config.json (or of newer versions' processor_config.json),
    else the standard one."""
    clip = config.model_type == "clip"
    size = square(config.vision_config.image_size, where)
    stored = folder / "preprocessor_config.json"
    values: dict[str, Any] | None = None
    if stored.is_file():
        values = read_json(stored)
    elif (folder / "processor_config.json").is_file():
        stored = folder / "processor_config.json"
        values = read_json(stored).get("image_processor")
    if values is None:
        log.warning(
            "%s has no preprocessor_config.json: images are prepared in the standard way of %s",
            where,
            config.model_type,
        )
        if clip:
            return Preprocess(size=size, crop="floor")
        return Preprocess(size=size, resize="squash", mean=HALF, std=HALF)
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if values.get(step, True) is not True:
            raise InputError(
                f"{stored} has {step}={values[step]}; only the full pipeline is supported"
            )
    if abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise InputError(
            f"{stored} has rescale_factor={values['rescale_factor']}; only 1/255 is supported"
        )
    resample = {2: "bilinear", 3: "bicubic"}.get(values.get("resample", 3))
    if resample is None:
        raise InputError(
            f"{stored} has resample={values['resample']}; bilinear (2) and bicubic (3) are supported"
        )
    side, resize = _resize(values, clip, size, stored)
    return Preprocess.from_dict(
        {
            "size": side,
            "resize": resize,
            "crop": "floor",
            "interpolation": resample,
            "mean": values.get("image_mean") or (CLIP_MEAN if clip else HALF),
            "std": values.get("image_std") or (CLIP_STD if clip else HALF),
        }
    )


def _resize(values: dict[str, Any], clip: bool, size: int, path: Path) -> tuple[int, str]:
    """The side in pixels, and the way of resizing."""
    target = values.get(
        "size", {"shortest_edge": size} if clip else {"height": size, "width": size}
    )
    cropped = values.get("do_center_crop", clip)
    if isinstance(target, int):  # older files
        target = {"shortest_edge": target} if clip else {"height": target, "width": target}
    crop = values.get("crop_size", target.get("shortest_edge", size))
    side = {crop} if isinstance(crop, int) else set(crop.values())
    if "shortest_edge" in target and cropped and side == {target["shortest_edge"]}:
        return target["shortest_edge"], "shortest"
    even = {"height", "width"} <= target.keys() and target["height"] == target["width"]
    if even and (not cropped or side == {target["height"]}):
        return target["height"], "squash"
    raise InputError(
        f"{path} resizes to {target} and crops {'to ' + str(crop) if cropped else 'nothing'}; supported "
        "are one size for both, or a square without a crop"
    )


def _tokenizer(folder: Path, config: Any, where: str) -> Tokenizer | None:
    """The folder's tokenizer, else CLIP's; None, with a warning, if SigLIP's is missing."""
    text = config.text_config
    clip = config.model_type == "clip"
    if has_tokenizer(folder):
        return from_folder(
            folder,
            context=text.max_position_embeddings,
            padding="longest" if clip else "max",
            local=True,
        )
    if clip and text.vocab_size == 49408:
        try:
            tokenizer = Clip(text.max_position_embeddings)
        except InputError as error:
            log.warning("%s has no tokenizer files and can embed images only: %s", where, error)
            return None
        log.warning(
            "%s has no tokenizer files: texts are split by the standard tokenizer of clip", where
        )
        return tokenizer
    log.warning("%s has no tokenizer files: it can embed images only", where)
    return None
