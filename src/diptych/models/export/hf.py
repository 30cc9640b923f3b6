"""Export to a folder in transformers' layout, as a model of one of `FAMILIES`: config, weights,
preprocessor, tokenizer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diptych.data.tokenizers import Clip, HuggingFace
from diptych.data.tokenizers.hf import quiet
from diptych.models.export import _common as common
from diptych.models.model import Model
from diptych.models.pretrained.convert import back
from diptych.models.pretrained.hf_families import ACTIVATION, FAMILIES, Family

PACKAGES = ("transformers",)
INSTALL = "'diptych[language]'"
NAMES = {ours: theirs for theirs, ours in reversed(ACTIVATION.items())}

VIT = {
    "name": ["vit"],
    "stem": ["patch"],
    "registers": [0],
    "layer_scale": [None],
    "activation": list(NAMES),
}
TEXT = {"name": ["text"], "cross": [None], "layer_scale": [None], "activation": list(NAMES)}
CLIP_VIT = {"cls": [1], "pre_norm": [True], "pooling": ["cls"]}
SIGLIP_VIT = {"cls": [0], "pre_norm": [False], "pooling": ["map"]}


def misfit(model: Model) -> str | None:
    """Why no family of transformers computes what this model does, or None."""
    config = model.encoder.config()
    tokenizer = common.tokenizer_of(model)
    preprocess = model.preprocess
    family = FAMILIES[family_of(model)]
    image = _image_options(family, config["image"])
    problem = common.pooled_apart(config) or common.differs(config["image"], image, "image")
    if problem := problem or common.differs(config["text"], _text_options(family), "text"):
        return problem
    for key, wanted in zip(
        ("image_projection", "text_projection"), family.projections, strict=True
    ):
        if config[key] != wanted:
            return f"it has {key}={config[key]!r} (wanted: {wanted!r})"
    if config["logit_bias"] is not None and not family.bias:
        return f"it has logit_bias={config['logit_bias']!r} (wanted: None)"
    if family.text and family.text["pooling"] == "eot" and tokenizer.eot is None:
        return "its tokenizer ends no text with an id of its own"
    if preprocess.resize == "longest" or preprocess.ratio is not None:
        return f"its images are padded (resize={preprocess.resize!r}, ratio={preprocess.ratio})"
    clean = getattr(tokenizer, "clean", None)
    if clean != ("lower" if isinstance(tokenizer, Clip) else None):
        return f"its tokenizer cleans texts first (clean={clean!r})"
    return None


def family_of(model: Model) -> str:
    """The family whose towers are nearest to the model's.

    Towers of transformers belong to one family. Of our own, those of CLIP are MetaCLIP 2's if a
    foreign tokenizer ends texts with 2, which `CLIPModel` would take for an old mistake.
    """
    config = model.encoder.config()
    kinds = {_model_type(config[side]) for side in ("image", "text")}
    for name, family in FAMILIES.items():
        parts = {"image": f"{name}_vision_model", "text": f"{name}_text_model"}
        if kinds & {parts[side] for side in parts if getattr(family, side) is None}:
            return name
    if config["image"].get("pooling") == "map":
        return "siglip"
    tokenizer = model.tokenizer
    ends = isinstance(tokenizer, HuggingFace) and tokenizer.eot == 2
    return "metaclip_2" if ends else "clip"


def _model_type(spec: Mapping[str, Any]) -> str | None:
    """transformers' name of a tower's model, None if it is our own."""
    return spec["config"]["model_type"] if spec["name"] == "hf" else None


def _image_options(family: Family, spec: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The options that an image tower of the family has."""
    if family.image is None:
        return {"name": ["hf"], "pooling": ["pooler"]}
    return VIT | (SIGLIP_VIT if family.image.get("pooling") == "map" else CLIP_VIT)


def _text_options(family: Family) -> dict[str, list[Any]]:
    """The options that a text tower of the family has."""
    if family.text is None:
        return {
            "name": ["hf"],
            "causal": [True],  # as transformers runs it
            "pooling": [family.pooling],
            "padding": ["longest"],
        }
    padded = {"padding": ["max"]} if family.text["padding"] == "max" else {}
    return TEXT | {key: [family.text[key]] for key in ("causal", "pooling")} | padded


def notes(model: Model) -> list[str]:
    """Inherent differences of the target."""
    preprocess = model.preprocess
    return [common.CROP] * (preprocess.resize == "shortest" and preprocess.crop != "floor") + [
        common.MENDS
    ] * isinstance(model.tokenizer, Clip)


def write(model: Model, folder: Path) -> None:
    """Write config.json, model.safetensors, preprocessor_config.json and the tokenizer's files."""
    import transformers

    family = FAMILIES[family_of(model)]
    tokenizer = common.tokenizer_of(model)
    eot = tokenizer.eot
    state = common.tensors(model.encoder, patch_bias=family.bias)
    pipeline = None
    if family.swap_end and eot == 2:
        # transformers treats an eos id of 2 as an old mistake and pools at the highest id: make the
        # end id the highest.
        eot = len(state["text.table.weight"]) - 1
        pipeline = (
            common.swapped(common.rust(tokenizer), 2, eot) if eot < tokenizer.vocab_size else None
        )
        state["text.table.weight"][[2, eot]] = state["text.table.weight"][[eot, 2]]
    if family.bias and model.encoder.logit_bias is None:
        state["logit_bias"] = torch.zeros(())
    if family.divisor:
        state["logit_scale.value"] = 1 / model.encoder.logit_scale().detach().float()
    common.write_tokenizer(tokenizer, folder, pipeline)
    cls = getattr(transformers, family.model)
    with quiet():
        config = cls.config_class(**_config(model, family, eot))
        with torch.device("meta"):
            made: Any = cls(config)
        wanted = made.state_dict()
        # parts that no embedding depends on, such as a pooler, are zeros
        whole = {name: torch.zeros(value.shape) for name, value in wanted.items()}
        made.load_state_dict(whole | back(state, wanted, family.rules), assign=True)
        made.save_pretrained(folder)
    common.write_json(folder / "preprocessor_config.json", _preprocessor(model))


def embed(
    folder: Path, images: Sequence[Image.Image], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, E) of images and of texts, computed and preprocessed by transformers."""
    from transformers import AutoModel, AutoTokenizer

    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    padded = (FAMILIES[kind].text or {}).get("padding") == "max"
    with quiet(), torch.inference_mode():
        model: Any = AutoModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
        pixels = _processor(folder)(images=list(images), return_tensors="pt")["pixel_values"]
        given = AutoTokenizer.from_pretrained(folder, local_files_only=True)(
            list(texts),
            padding="max_length" if padded else True,
            truncation=True,
            return_tensors="pt",
        )
        ids = {"input_ids": given["input_ids"]} if padded else given
        found = model.get_image_features(pixel_values=pixels), model.get_text_features(**ids)
        vectors = [
            F.normalize(getattr(x, "pooler_output", x), dim=-1) for x in found
        ]  # versions 4 and 5 differ
    return vectors[0], vectors[1]


def _processor(folder: Path) -> Any:
    """transformers' image processor with Pillow, with which its models were trained."""
    import transformers
    from transformers import AutoImageProcessor

    options: dict[str, Any] = (
        {"use_fast": False} if transformers.__version__.startswith("4.") else {"backend": "pil"}
    )
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, **options)


def _config(model: Model, family: Family, eot: int | None) -> dict[str, Any]:
    """The values of the family's config."""
    config = model.encoder.config()
    size = {"projection_dim": config["embed_dim"]}
    image = _own(config["image"]) if family.image else dict(config["image"]["config"])
    text = _own(config["text"]) if family.text else dict(config["text"]["config"])
    if family.image:
        image |= {
            "image_size": config["image"]["image_size"],
            "patch_size": config["image"]["patch"],
        }
    if family.text:
        text |= _words(model, eot) | (
            {"projection_size": config["embed_dim"]} if family.bias else size
        )
    scale = float(model.encoder.logit_scale().detach())
    if family.divisor:
        size["temperature_init_value"] = 1 / scale
    elif not family.bias:
        size["logit_scale_init_value"] = float(torch.tensor(scale).log())
    own = {} if family.bias or family.image is None else {"projection_dim": config["embed_dim"]}
    return {"text_config": text, "vision_config": image | own} | ({} if family.bias else size)


def _own(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a tower of our own is in the config of a side."""
    return {
        "hidden_size": spec["width"],
        "num_hidden_layers": spec["depth"],
        "num_attention_heads": common.heads(spec),
        "intermediate_size": common.hidden(spec),
        "hidden_act": NAMES[spec["activation"]],
        "layer_norm_eps": spec["eps"],
    }


def _words(model: Model, eot: int | None) -> dict[str, Any]:
    """Vocabulary, positions and special ids."""
    text = model.encoder.config()["text"]
    tokenizer = common.tokenizer_of(model)
    keeps_pad = tokenizer.padding == "max" or isinstance(tokenizer, HuggingFace)
    return {
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context"],
        "bos_token_id": tokenizer.before[0] if tokenizer.before else None,
        "eos_token_id": eot,
        "pad_token_id": tokenizer.pad if keeps_pad else eot,
    }


def _preprocessor(model: Model) -> dict[str, Any]:
    """preprocessor_config.json for transformers 4 and 5."""
    values = model.preprocess
    squash = values.resize == "squash"
    cropped = not squash or values.margin is not None
    edge = {"height": values.edge, "width": values.edge}
    return {
        "image_processor_type": "CLIPImageProcessor" if cropped else "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "size": edge if squash else {"shortest_edge": values.edge},
        "resample": {"bilinear": 2, "bicubic": 3}[values.interpolation],
        "image_mean": list(values.mean),
        "image_std": list(values.std),
        "do_center_crop": cropped,
        "crop_size": {"height": values.size, "width": values.size},
    }
