"""Pretrained models of other libraries: `openclip:NAME[/TAG]` and `hf:REPO_OR_FOLDER` in our
towers, `hf-lm:FOLDER` and `diffusers:FOLDER` in modules of transformers and diffusers.

A loader is a module of this folder with `load(name, weights) -> Model`; its name is the prefix of
its specs.
"""

import importlib
from pathlib import Path
from typing import Any

from diptych.errors import unknown

LOADERS = {
    "openclip": "diptych.models.pretrained.openclip",
    "hf": "diptych.models.pretrained.hf",
    "hf-lm": "diptych.models.pretrained.hf_lm",
    "diffusers": "diptych.models.pretrained.diffusers",
}


def load(spec: str, weights: str | Path | None = None) -> Any:
    """Load the model of a spec `PREFIX:NAME`, in float32 on the CPU.

    `weights` is a local state dict, safetensors file or folder.

    Raises InputError if the prefix or name is unknown, or if the weights do not fit the name.
    """
    prefix, _, name = spec.partition(":")
    if prefix not in LOADERS:
        raise unknown("kind of pretrained model", prefix, LOADERS)
    path = None if weights is None else Path(weights).expanduser()
    model = importlib.import_module(LOADERS[prefix]).load(name, path)
    model.weights = None if path is None else path.resolve()
    return model


def absolute(spec: str) -> str:
    """A model's spec that does not depend on the working directory: local files and folders become
    absolute paths.

    >>> absolute("openclip:ViT-B-32/openai")
    'openclip:ViT-B-32/openai'
    """
    prefix, _, name = spec.partition(":")
    if name and prefix != "openclip" and Path(name).expanduser().exists():
        return f"{prefix}:{Path(name).expanduser().resolve()}"
    return str(Path(spec).resolve()) if Path(spec).is_dir() else spec
