"""Export to a folder in transformers' layout, CLIPModel or SiglipModel: config, weights,
preprocessor, tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.tokenizers import Clip
from diptych.data.tokenizers.hf import quiet
from diptych.models.export import _common as common
from diptych.models.model import Model
from diptych.models.pretrained.convert import back
from diptych.models.pretrained.hf import ACTIVATION, RULES

PACKAGES = ("transformers",)
INSTALL = "'diptych[language]'"
NAMES = {ours: theirs for theirs, ours in reversed(ACTIVATION.items())}

VIT = {
    "name": ["vit"],
    "stem": ["patch"],
    "registers": [0],
    "mask_token": [False],
    "layer_scale": [None],
}
TEXT = {"name": ["text"], "cross": [None], "layer_scale": [None]}
CLIP = (
    VIT | {"cls": [1], "pre_norm": [True], "pooling": ["cls"]},
    TEXT | {"causal": [True], "pooling": ["eot"]},
    {"image_projection": ["linear"], "text_projection": ["linear"], "logit_bias": [None]},
)
SIGLIP = (
    VIT | {"cls": [0], "pre_norm": [False], "pooling": ["map"]},
    TEXT | {"causal": [False], "pooling": ["last"], "padding": ["max"]},
    {"image_projection": ["none"], "text_projection": ["affine"]},
)


def misfit(model: Model) -> str | None:
    """Why neither CLIPModel nor SiglipModel computes what this model does, or None."""
    config = model.encoder.config()
    tokenizer = common.tokenizer_of(model)
    preprocess = model.preprocess
    image, text, dual = SIGLIP if _siglip(config) else CLIP
    if problem := common.differs(config["image"], image, "image") or common.differs(
        config["text"], text, "text"
    ):
        return problem
    for key, allowed in dual.items():
        if config[key] not in allowed:
            return f"it has {key}={config[key]!r} (wanted: {allowed[0]!r})"
    if not _siglip(config) and tokenizer.eot is None:
        return "its tokenizer ends no text with an id of its own"
    if preprocess.resize == "longest" or preprocess.ratio is not None:
        return f"its images are padded (resize={preprocess.resize!r}, ratio={preprocess.ratio})"
    if preprocess.margin is not None:
        return f"its images are scaled with a margin ({preprocess.margin:.3f})"
    clean = getattr(tokenizer, "clean", None)
    if clean != ("lower" if isinstance(tokenizer, Clip) else None):
        return f"its tokenizer cleans texts first (clean={clean!r})"
    return None


def notes(model: Model) -> list[str]:
    """Inherent differences of the target."""
    preprocess = model.preprocess
    return [common.CROP] * (preprocess.resize == "shortest" and preprocess.crop != "floor") + [
        common.MENDS
    ] * isinstance(model.tokenizer, Clip)


def write(model: Model, folder: Path) -> None:
    """Write config.json, model.safetensors, preprocessor_config.json and the tokenizer's files."""
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    siglip = _siglip(model.encoder.config())
    tokenizer = common.tokenizer_of(model)
    eot = tokenizer.eot
    state = common.tensors(model.encoder, patch_bias=siglip)
    pipeline = None
    if not siglip and eot == 2:
        # transformers treats an eos id of 2 as an old mistake and pools at the highest id: make the
        # end id the highest.
        eot = len(state["text.table.weight"]) - 1
        pipeline = (
            common.swapped(common.rust(tokenizer), 2, eot) if eot < tokenizer.vocab_size else None
        )
        state["text.table.weight"][[2, eot]] = state["text.table.weight"][[eot, 2]]
    if siglip and model.encoder.logit_bias is None:
        state["logit_bias"] = torch.zeros(())
    common.write_tokenizer(tokenizer, folder, pipeline)
    with quiet():
        made: Any = (SiglipConfig if siglip else CLIPConfig)(
            **_config(model, siglip, tokenizer, eot)
        )
        with torch.device("meta"):
            wanted = (SiglipModel if siglip else CLIPModel)(made).state_dict()
        made.architectures = ["SiglipModel" if siglip else "CLIPModel"]
        made.save_pretrained(folder)
    save_file(back(state, wanted, RULES), folder / "model.safetensors", metadata={"format": "pt"})
    common.write_json(folder / "preprocessor_config.json", _preprocessor(model, siglip))


def embed(
    folder: Path, images: Sequence[Image.Image], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, E) of images and of texts, computed and preprocessed by transformers."""
    from transformers import AutoModel, AutoTokenizer

    siglip = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "siglip"
    )
    with quiet(), torch.inference_mode():
        model: Any = AutoModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
        pixels = _processor(folder)(images=list(images), return_tensors="pt")["pixel_values"]
        given = AutoTokenizer.from_pretrained(folder, local_files_only=True)(
            list(texts),
            padding="max_length" if siglip else True,
            truncation=True,
            return_tensors="pt",
        )
        ids = {"input_ids": given["input_ids"]} if siglip else given
        found = model.get_image_features(pixel_values=pixels), model.get_text_features(**ids)
        vectors = [
            F.normalize(getattr(x, "pooler_output", x), dim=-1) for x in found
        ]  # versions 4 and 5 differ
    return vectors[0], vectors[1]


def _siglip(config: dict[str, Any]) -> bool:
    return config["image"].get("pooling") == "map"


def _processor(folder: Path) -> Any:
    """transformers' image processor with Pillow, with which its models were trained."""
    import transformers
    from transformers import AutoImageProcessor

    options: dict[str, Any] = (
        {"use_fast": False} if transformers.__version__.startswith("4.") else {"backend": "pil"}
    )
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, **options)


def _config(model: Model, siglip: bool, tokenizer: Any, eot: int | None) -> dict[str, Any]:
    config = model.encoder.config()
    image = config["image"]
    text = config["text"]

    def tower(spec: dict[str, Any]) -> dict[str, Any]:
        return {
            "hidden_size": spec["width"],
            "num_hidden_layers": spec["depth"],
            "num_attention_heads": common.heads(spec),
            "intermediate_size": common.hidden(spec),
            "hidden_act": NAMES[spec["activation"]],
            "layer_norm_eps": spec["eps"],
        }

    size = (
        {"projection_size": config["embed_dim"]}
        if siglip
        else {"projection_dim": config["embed_dim"]}
    )
    start = tokenizer.before[0] if tokenizer.before else None
    return {
        "text_config": {
            **tower(text),
            **size,
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context"],
            "bos_token_id": start,
            "eos_token_id": eot,
            "pad_token_id": tokenizer.pad if tokenizer.padding == "max" else eot,
        },
        "vision_config": {
            **tower(image),
            **({} if siglip else size),
            "image_size": image["image_size"],
            "patch_size": image["patch"],
        },
        **(
            {}
            if siglip
            else {
                **size,
                "logit_scale_init_value": float(model.encoder.logit_scale().detach().log()),
            }
        ),
    }


def _preprocessor(model: Model, siglip: bool) -> dict[str, Any]:
    """preprocessor_config.json for transformers 4 and 5."""
    values = model.preprocess
    squash = values.resize == "squash"
    square = {"height": values.size, "width": values.size}
    kind = "SiglipImageProcessor" if siglip else "CLIPImageProcessor"
    crop = {} if siglip and squash else {"do_center_crop": not squash, "crop_size": square}
    return {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "size": square if squash else {"shortest_edge": values.size},
        "resample": {"bilinear": 2, "bicubic": 3}[values.interpolation],
        "image_mean": list(values.mean),
        "image_std": list(values.std),
        **crop,
    }
