"""Export to a folder for `SentenceTransformer(FOLDER)`: CLIPModel in transformers' layout, or the
transformer of texts alone with its pooling; then normalisation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from diptych.data.tokenizers.hf import quiet
from diptych.models.export import _common as common
from diptych.models.export import _sentences, hf
from diptych.models.model import Model, TextModel

PACKAGES = (*hf.PACKAGES, "sentence_transformers")
INSTALL = "'diptych[language]' sentence-transformers"
TEXTS_ALONE = True


def misfit(model: TextModel) -> str | None:
    """Why its modules do not compute what this model does, or None."""
    if not isinstance(model, Model):
        return _sentences.misfit(model)
    return hf.misfit(model)


def notes(model: TextModel) -> list[str]:
    """Inherent differences of the target."""
    return hf.notes(model) if isinstance(model, Model) else []


def write(model: TextModel, folder: Path) -> None:
    """Write modules.json and a folder for each module, the last for normalisation."""
    made = _pair(model, folder) if isinstance(model, Model) else _sentences.write(model, folder)
    common.write_json(
        folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"}
    )
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(made)
    ]
    common.write_json(folder / "modules.json", modules)


def _pair(model: Model, folder: Path) -> list[tuple[str, str]]:
    """Write the folder of `hf` as module 0, and normalisation as module 1."""
    kind = "CLIPModel" if hf.family_of(model) == "clip" else "Transformer"
    modules = [(f"0_{kind}", kind), ("1_Normalize", "Normalize")]
    for name, _ in modules:
        (folder / name).mkdir()
    place = folder / modules[0][0]
    hf.write(model, place)
    # transformers 5 would preprocess with torchvision, whose pixels differ slightly from Pillow's.
    options: dict[str, Any] = {"processor_kwargs": {"backend": "pil"}}
    if kind == "Transformer":  # which is of texts alone by default
        options["modality_config"] = {
            side: {"method": f"get_{side}_features", "method_output_name": "pooler_output"}
            for side in ("text", "image")
        }
        options["module_output_name"] = "sentence_embedding"
    if common.tokenizer_of(model).padding == "max":
        options["processing_kwargs"] = {"text": {"padding": "max_length"}}
    common.write_json(place / "sentence_bert_config.json", options)
    return modules


def embed(folder: Path, images: Sequence[Image.Image], texts: Sequence[str]) -> list[Tensor]:
    """Unit vectors (N, E) of images, if there are any, and of texts by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    with quiet():
        model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    options = {"convert_to_tensor": True, "show_progress_bar": False}
    return [model.encode(list(given), **options) for given in (images, texts) if given]
