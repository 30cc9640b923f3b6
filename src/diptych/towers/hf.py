"""Models of transformers as modules of towers: from a folder, from plain values, or a part of a
larger model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diptych.errors import InputError, brief, some, unknown
from diptych.files import read_json

_UNREAD = ("pooler", "decoder")
"""Parts that text towers do without."""


def transformers() -> Any:
    """The library. Raises InputError if it is not installed."""
    try:
        import transformers as found
    except ImportError as error:
        raise InputError(
            "hf towers need transformers; install it with: pip install 'diptych[language]'"
        ) from error
    return found


def stored(folder: str, unread: tuple[str, ...] = _UNREAD, kind: str | None = None) -> Any:
    """The model of a folder, in torch's default type, read as one of the `model_type` kind if given.

    Code of the folder is not run. Raises InputError if it cannot be read or lacks weights, in place
    of which transformers would draw random ones; those whose names begin as one of `unread` may be
    missing.
    """
    library = transformers()
    config = described(folder, kind)
    try:
        model, found = library.AutoModel.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many kinds
        raise InputError(f"{folder} holds no model for transformers ({brief(error)})") from None
    lacking = sorted(name for name in found["missing_keys"] if not name.startswith(unread))
    if lacking:
        raise InputError(f"{folder} lacks the weights {some(lacking)}; copy the model again")
    return model.to(torch.get_default_dtype())


def described(folder: str, kind: str | None) -> Any:
    """The config of a folder as one of this kind; None, which leaves it to transformers, without one.

    Raises InputError for a folder without a config, and for a kind that transformers does not have.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise InputError(
            f"{folder} holds no config.json; give a model folder in transformers' layout"
        )
    values = read_json(file, "copy the model again")
    if not isinstance(values, dict):
        raise InputError(f"{file} is no JSON object; copy the model again")
    known = transformers().CONFIG_MAPPING
    own = values.get("model_type")
    if kind is None:
        if "auto_map" in values and own not in known:
            raise InputError(
                f"{folder} holds a model of type {own!r}, which transformers knows only by code of that folder, and "
                f"such code is not run; say which type it is built as, such as hf:{folder}:model_type=bert"
            )
        return None
    if kind not in known:
        raise unknown("model_type of transformers", kind, known.keys())
    for name in ("model_type", "auto_map", "architectures", "transformers_version"):
        values.pop(name, None)
    try:
        return transformers().AutoConfig.for_model(kind, **values)
    except Exception as error:  # its validation raises many kinds
        raise InputError(f"{file} describes no {kind} ({brief(error)})") from None


def fresh(options: Mapping[str, Any]) -> Any:
    """The model of plain values, `model_type` among them, with new parameters.

    Raises InputError for values of which transformers makes no model.
    """
    library = transformers()
    options = dict(options)
    kind = options.pop("model_type", None)
    if kind not in library.CONFIG_MAPPING:
        raise unknown("model_type of transformers", str(kind), library.CONFIG_MAPPING.keys())
    try:
        return bare(library.AutoConfig.for_model(kind, **options))
    except ValueError as error:
        raise InputError(
            f"transformers makes no model of type {kind!r}: {str(error).partition('.')[0]}"
        ) from error


def bare(config: Any) -> Any:
    """The model without a head of transformers' config, with new parameters.

    AutoModel does not list the towers of some dual encoders, such as AlignTextModel; those are
    named as their configs are.
    """
    library = transformers()
    name = type(config).__name__.replace("Config", "Model")
    if type(config) in library.MODEL_MAPPING or not hasattr(library, name):
        return library.AutoModel.from_config(config)
    return getattr(library, name)(config)


def plain(config: Any) -> dict[str, Any]:
    """The values of a config that differ from its defaults, with `model_type`, for `fresh`."""
    values = config.to_diff_dict() | {"model_type": config.model_type}
    values.pop("transformers_version", None)  # it would make an update another model
    return values


def layers(model: nn.Module, depth: int) -> list[nn.Module]:
    """A model's blocks: its first module list of `depth` entries. Raises InputError if there is
    none."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module)
    raise InputError(
        f"no list of {depth} layers in transformers' {type(model).__name__}; edits cannot reach it"
    )
