"""Export to a folder for `SentenceTransformer(FOLDER)`: CLIPModel in transformers' layout, then
normalisation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from diptych.models.export import _common as common
from diptych.models.export import hf
from diptych.models.model import Model

PACKAGES = (*hf.PACKAGES, "sentence_transformers")
INSTALL = "'diptych[language]' sentence-transformers"
MODULES = ("sentence_transformers.models.CLIPModel", "sentence_transformers.models.Normalize")


def misfit(model: Model) -> str | None:
    """Why its CLIP module does not compute what this model does, or None."""
    if model.encoder.config()["image"].get("pooling") == "map":
        return "its CLIP module does not know SigLIP's padding of texts"
    return hf.misfit(model)


notes = hf.notes


def write(model: Model, folder: Path) -> None:
    """Write modules.json, the folder of `hf` as module 0, and normalisation as module 1."""
    names = ["0_CLIPModel", "1_Normalize"]
    for name in names:
        (folder / name).mkdir()
    hf.write(model, folder / names[0])
    # transformers 5 would preprocess with torchvision, whose pixels differ slightly from Pillow's.
    common.write_json(
        folder / names[0] / "sentence_bert_config.json", {"processor_kwargs": {"backend": "pil"}}
    )
    common.write_json(
        folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"}
    )
    modules = [
        {"idx": i, "name": str(i), "path": p, "type": t}
        for i, (p, t) in enumerate(zip(names, MODULES, strict=True))
    ]
    common.write_json(folder / "modules.json", modules)


def embed(
    folder: Path, images: Sequence[Image.Image], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, E) of images and of texts by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    with hf.still():
        model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    options = {"convert_to_tensor": True, "show_progress_bar": False}
    return model.encode(list(images), **options), model.encode(list(texts), **options)
