"""The preprocessing that a folder of transformers describes."""

import logging
from pathlib import Path
from typing import Any

from diptych.data.images import Preprocess
from diptych.errors import InputError
from diptych.models.pretrained.files import read_json
from diptych.models.pretrained.hf_families import Family

log = logging.getLogger(__name__)

FILE = "preprocessor_config.json"
_KINDS = {2: "bilinear", 3: "bicubic"}


def preprocess_of(folder: Path, family: Family, size: int, where: str) -> Preprocess:
    """The preprocessing of preprocessor_config.json (or of newer versions' processor_config.json),
    else the standard one of the family for images of `size`.

    Raises InputError for steps that are not supported; `where` names the model in messages.
    """
    standard = Preprocess.from_dict({"size": size, "crop": "floor", **family.standard})
    path = folder / FILE
    values: dict[str, Any] | None = None
    if path.is_file():
        values = read_json(path)
    elif (folder / "processor_config.json").is_file():
        path = folder / "processor_config.json"
        values = read_json(path).get("image_processor")
    if values is None:
        log.warning(
            "%s has no %s: images are prepared in the standard way of %s", where, FILE, family.title
        )
        return standard
    for step in ("do_resize", "do_rescale"):
        if values.get(step, True) is not True:
            raise InputError(f"{path} has {step}={values[step]}; only true is supported")
    if values.get("include_top", False):
        raise InputError(f"{path} has include_top=true; only false is supported")
    resample = values.get("resample")
    if resample is not None and resample not in _KINDS:
        raise InputError(
            f"{path} has resample={resample}; bilinear (2) and bicubic (3) are supported"
        )
    mean, std = _normalisation(values, standard)
    return Preprocess.from_dict(
        {
            **_sides(values, standard, path),
            "crop": "floor",
            "interpolation": standard.interpolation if resample is None else _KINDS[resample],
            "mean": mean,
            "std": std,
        }
    )


def _normalisation(
    values: dict[str, Any], standard: Preprocess
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels from 0 to 1.

    The file's are of pixels r x - o with x from 0 to 1: r is 255 times `rescale_factor`, and o is 1
    with `rescale_offset`.
    """
    mean = (0.0,) * 3
    std = (1.0,) * 3
    if values.get("do_normalize", standard.mean != (0, 0, 0)):
        mean = tuple(values.get("image_mean") or standard.mean)
        std = tuple(values.get("image_std") or standard.std)
    ratio = values.get("rescale_factor", 1 / 255) * 255
    offset = float(bool(values.get("rescale_offset", False)))
    if abs(ratio - 1) < 1e-6 and not offset:
        return mean, std
    return tuple((m + offset) / ratio for m in mean), tuple(s / ratio for s in std)


def _sides(values: dict[str, Any], standard: Preprocess, path: Path) -> dict[str, Any]:
    """The side in pixels, the way of resizing, and the margin that is cut off."""
    squash = standard.resize == "squash"
    given = values.get("size", standard.edge)
    if isinstance(given, int):  # older files
        given = {"height": given, "width": given} if squash else {"shortest_edge": given}
    cropped = values.get("do_center_crop", not squash or standard.margin is not None)
    shortest = "shortest_edge" in given
    edge = given.get("shortest_edge", given.get("height"))
    crop = values.get("crop_size", standard.size if standard.margin else edge)
    cut: Any = crop if cropped else edge
    sides = [cut] if isinstance(cut, int) else [cut.get("height"), cut.get("width")]
    even = cropped if shortest else given.get("width") == edge
    size = sides[0]
    if not (even and isinstance(edge, int) and sides[-1] == size <= edge):
        raise InputError(
            f"{path} resizes to {given} and crops {'to ' + str(crop) if cropped else 'nothing'}; "
            "supported are a square, and a shortest edge with a square crop of at most its size"
        )
    resize = "shortest" if shortest else "squash"
    return {"size": size, "resize": resize, **({"margin": edge / size} if size != edge else {})}
