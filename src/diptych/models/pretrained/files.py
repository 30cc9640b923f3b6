"""Reading of weights files that may be damaged, of another format, or malicious."""

import json
import logging
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diptych.errors import InputError, brief
from diptych.models.pretrained.torchscript import is_torchscript, read_torchscript

log = logging.getLogger(__name__)

NAMES = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.safetensors",
         "open_clip_pytorch_model.bin", "pytorch_model.bin")  # fmt: skip
"""Weights files of a folder, in order of preference."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors, by name, of a weights file, or of a folder with one file or an index of
    parts.

    The `state_dict` or `model` of a training checkpoint is unwrapped, and the prefix `module.` removed. Raises
    InputError for a missing or damaged file, one of another format, and a pickle that contains more
    than tensors, whose code is never run.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(
            f"there are no weights at {path}; give a state dict, a safetensors file or a model's folder"
        )
    if path.suffix in (".npz", ".npy"):
        raise InputError(
            f"{path} holds weights of big_vision, which are not read here; give a state dict or safetensors"
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise InputError(f"{path} holds no state dict (names and tensors); save model.state_dict()")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return content


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON object, or a list of objects. Raises InputError if the file is missing or
    damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); a model's folder needs it"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); copy it again") from None
    objects = content if isinstance(content, list) else [content]
    if not isinstance(content, kind) or not all(isinstance(each, dict) for each in objects):
        wanted = "a JSON object" if kind is dict else "a list of JSON objects"
        raise InputError(f"{path} holds a {type(content).__name__}, not {wanted}; copy it again")
    return content


def licence(folder: Path) -> str | None:
    """The licence that the card of a folder, README.md, gives in its front matter, or None."""
    path = folder / "README.md"
    lines = (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    )
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        key, _, value = line.partition(":")
        if key == "license":
            return value.strip(" \t'\"") or None
        if line.strip() == "---":
            break
    return None


def _read_folder(folder: Path) -> dict[str, Tensor]:
    for name in NAMES:
        if (folder / name).is_file():
            return read_weights(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = sorted(set(read_json(index).get("weight_map", {}).values()))
            if any(Path(part).name != part for part in parts):
                raise InputError(
                    f"{index} names files outside its folder; copy the model from its source again"
                )
            return {
                key: value for part in parts for key, value in read_weights(folder / part).items()
            }
    raise InputError(f"{folder} holds no weights; it needs one of {', '.join(NAMES)}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}); copy it again"
        ) from None


def _read_pickle(path: Path) -> Any:
    """Read the tensors of a file of torch.save or torch.jit.save; no code of it is run."""
    packed = zipfile.is_zipfile(path)
    try:
        if packed and is_torchscript(path):
            return read_torchscript(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about the pickle's format
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=packed or None)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than tensors and was not opened: a pickle can run code; save only its "
            "state_dict, or give safetensors"
        ) from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"{path} is not a readable state dict ({brief(error)})") from None
    log.warning("%s is a pickle: only its tensors were read. safetensors is the safer form", path)
    return content
