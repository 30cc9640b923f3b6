"""Heat maps: how far a phrase stands out where it belongs, by boxes of phrases.

    CNR    = |m_in - m_out| / √(v_in + v_out)
    IoU_c  = |{heat > c} ∩ boxes| / |{heat > c} ∪ boxes|,      mIoU = mean over the thresholds c

m and v are mean and variance of the heat of pixels inside all boxes of a phrase, and outside. The
heat of each position is smoothed on the grid and enlarged to the image's own pixels (`models.heat`);
pixels that the model does not see are left out. With `signed` the CNR is negative where the phrase
stands out less inside than outside.

Source: Boecking et al. 2022 (BioViL). Its follow-up, BioViL-T, reports the signed CNR.

Dimensions: K phrases, h x w positions, H x W pixels.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from diptych.data.images import size_of
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.models.heat import Interpolation, heat_map

card = {
    "title": "Heat maps: contrast and overlap with the boxes of phrases",
    "needs": ["images.main", "boxes"],
    "abilities": ["preprocess", "heat"],
}

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


def ready(
    model: Any,
    source: Source,
    *,
    sigma: float = 1.5,
    interpolation: Interpolation = "nearest",
    thresholds: Sequence[float] = THRESHOLDS,
) -> None:
    """Raise InputError for numbers that do not fit."""
    if sigma < 0:
        raise InputError(f"sigma is {sigma}; it is a number of positions, 0 or more")
    if interpolation not in get_args(Interpolation):
        raise unknown("interpolation", interpolation, get_args(Interpolation))
    if not thresholds:
        raise InputError("the IoU has no threshold; give one at least, such as 0.5")


def heatmaps(
    model: Any,
    source: Source,
    *,
    sigma: float = 1.5,
    interpolation: Interpolation = "nearest",
    thresholds: Sequence[float] = THRESHOLDS,
    signed: bool = False,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `cnr` and `miou`, means over the phrases of all images, and both by class.

    The phrases of an image are the texts of its boxes; boxes of the same text belong together.
    `sigma` is the standard deviation of the filter in positions, 0 for none. Also returned: `n`
    phrases, `unseen` (phrases all of whose boxes, or all but whose boxes, lie outside what the model
    sees), `bad` samples by reason, and the protocol. Raises InputError if no box has a text.
    """
    ready(model, source, sigma=sigma, interpolation=interpolation, thresholds=thresholds)
    steps = Steps(progress, len(source))
    bad = Counter[str]()
    names = source.schema()["boxes"].classes
    found: list[tuple[int, float, float]] = []
    unseen = 0
    for pixels, facts in read_images(
        model, source, _phrases, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        for own, (size, phrases) in zip(pixels, facts, strict=True):
            if not phrases:
                continue
            heat = model.heat(own[None], list(phrases))[0]
            maps = heat_map(
                heat, model.preprocess, size, sigma=sigma, interpolation=interpolation
            ).numpy()
            for values, (label, inside) in zip(maps, phrases.values(), strict=True):
                there = inside[~np.isnan(values)]
                if there.all() or not there.any():
                    unseen += 1
                    continue
                cnr = contrast_to_noise(values, inside, signed=signed)
                found.append((label, cnr, mean_iou(values, inside, thresholds)))
    if not found:
        raise InputError(f"no box of source {source.name!r} has a text and is seen")
    labels, cnrs, ious = map(np.array, zip(*found, strict=True))
    by_class = {
        names[label]: {
            "cnr": float(cnrs[labels == label].mean()),
            "miou": float(ious[labels == label].mean()),
        }
        for label in np.unique(labels).tolist()
        if 0 <= label < len(names)
    }
    options = [f"sigma={sigma:g}", interpolation, *(["signed"] if signed else [])]
    protocol = protocol_of(
        "heatmaps",
        source,
        model,
        exact=exact,
        field="boxes",
        rule="pixels inside the boxes of a phrase and outside; unseen ones left out",
        options=(*options, f"thresholds={','.join(map(str, thresholds))}"),
    )
    return {
        "cnr": float(cnrs.mean()),
        "miou": float(ious.mean()),
        "n": len(found),
        "unseen": unseen,
        **({"by_class": by_class} if by_class else {}),
        "bad": dict(bad),
    } | describe(protocol, model)


def _phrases(sample: Sample) -> tuple[tuple[int, int], dict[str, tuple[int, np.ndarray]]]:
    """The size of an image, and its phrases, each with its label and the pixels (H, W) in its
    boxes."""
    width, height = size_of(sample.images["main"])
    found: dict[str, tuple[int, np.ndarray]] = {}
    for box in sample.boxes:
        if box.image != "main" or not box.text.strip():
            continue
        _, inside = found.setdefault(box.text, (box.label, np.zeros((height, width), bool)))
        x0, y0, x1, y1 = (max(0, round(edge)) for edge in box.xyxy)
        inside[y0:y1, x0:x1] = True
    if any(not inside.any() for _, inside in found.values()):
        raise BadSample("no-box", f"{sample.key} has a box outside its image")
    return (width, height), found


def contrast_to_noise(heat: np.ndarray, inside: np.ndarray, *, signed: bool = False) -> float:
    """The CNR of a map, whose NaN are left out; 0 of a map that is the same everywhere.

    >>> round(contrast_to_noise(np.array([0.8, 0.6, 0.1, 0.3]), np.array([1, 1, 0, 0], bool)), 6)
    3.535534
    """
    within = heat[inside & ~np.isnan(heat)].astype(np.float64)
    without = heat[~inside & ~np.isnan(heat)].astype(np.float64)
    difference = within.mean() - without.mean()
    noise = np.sqrt(within.var() + without.var())
    if difference == 0:
        return 0.0
    return float((difference if signed else abs(difference)) / max(noise, np.finfo(float).tiny))


def mean_iou(
    heat: np.ndarray, inside: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> float:
    """The mean IoU of the boxes and what is hotter than each threshold; NaN are left out.

    >>> round(mean_iou(np.array([0.9, 0.2, 0.0]), np.array([1, 0, 0], bool), (0.1, 0.5)), 6)
    0.75
    """
    seen = ~np.isnan(heat)
    heat = heat[seen]
    inside = inside[seen]
    ious = [
        ((heat > least) & inside).sum() / ((heat > least) | inside).sum() for least in thresholds
    ]
    return float(np.mean(ious))
