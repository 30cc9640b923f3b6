"""The preprocessing of open_clip's models, from the tag, a folder's config or open_clip's default."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diptych.data.images import Preprocess
from diptych.errors import InputError
from diptych.models.pretrained.convert import square
from diptych.models.pretrained.files import read_json


def preprocess_of(
    config: Mapping[str, Any],
    tagged: Mapping[str, Any] | None,
    folder: Path | None,
    where: str,
) -> Preprocess:
    """The preprocessing: size from the architecture, the rest from the tag, the folder, or
    open_clip's default."""
    from open_clip.transform import PreprocessCfg

    values = asdict(PreprocessCfg())
    stored = folder / "open_clip_config.json" if folder else None
    if stored is not None and stored.is_file():
        reported = read_json(stored)
        _compare(config, reported.get("model_cfg", {}), where, stored)
        given = reported.get("preprocess_cfg", {})
        for key in ("mean", "std", "interpolation", "resize_mode"):
            if tagged and key in given and _plain(given[key]) != _plain(tagged.get(key)):
                raise InputError(
                    f"{stored} has {key} {given[key]}, the tag of {where} {tagged.get(key)}; leave out "
                    "the tag, or give its own weights"
                )
        values.update({key: value for key, value in given.items() if value is not None})
    values.update({key: value for key, value in (tagged or {}).items() if key in values})
    return Preprocess.from_dict(
        {
            "size": square(config["vision_cfg"].get("image_size", 224), where),
            "resize": values["resize_mode"],
            **{key: values[key] for key in ("interpolation", "mean", "std")},
            # the background of padded images; else it only affects transparent ones
            **({"fill": (values["fill_color"],) * 3} if values["resize_mode"] == "longest" else {}),
        }
    )


def _compare(
    config: Mapping[str, Any], reported: Mapping[str, Any], where: str, path: Path
) -> None:
    """Raise InputError if a folder describes another model than NAME; the activation is compared
    first."""
    if not reported:
        return
    ours = dict(config)
    theirs = dict(reported)
    for key in sorted(
        {*ours, *theirs} - {"custom_text"}, key=lambda key: (key != "quick_gelu", key)
    ):
        a = ours.get(key)
        b = theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            skip = {
                "timm_model_pretrained",
                "hf_model_pretrained",
                "hf_tokenizer_name",
                "output_tokens",
            }
            differ = [
                f"{key}.{part}"
                for part in sorted({*a, *b} - skip)
                if _plain(a.get(part)) != _plain(b.get(part))
            ]
        else:
            differ = [key] if _plain(a or None) != _plain(b or None) else []
        if differ:
            raise InputError(
                f"{path} describes another model than {where}: {differ[0]} differs; name the model that "
                "these weights belong to"
            )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
