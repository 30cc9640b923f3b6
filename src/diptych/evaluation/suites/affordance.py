"""Affordance: whether the heat of a text lies where a map of the truth does, such as the part of a tool
that a verb touches.

    g, p   truth and heat, each from 0 to 1 by its least and largest value, divided by its sum
    KLD    Σ g log( g / (p + ε) + ε )                                     less is better
    SIM    Σ min(g, p)
    NSS    mean over { truth > 0.1 of its largest value } of (heat - mean) / std

The truth is a mask of greys. The heat of each position is smoothed on the grid if that is asked for,
enlarged to the mask's pixels (`models.heat`), and has its least value where the model sees nothing.
Means are over images. A heat that is the same everywhere has p = 0 and NSS 0.

Sources: Luo et al. 2022 (AGD20K); Bylinskii et al. 2019 (the measures).

Dimensions: h x w positions, H x W pixels.
"""

from collections import Counter
from typing import Any, NamedTuple, get_args

import numpy as np

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.models.heat import Interpolation, heat_map

card = {
    "title": "Affordance: the heat of a verb against a map of where it belongs",
    "needs": ["images.main", "texts", "masks"],
    "abilities": ["preprocess", "heat"],
}

EPSILON = 1e-12
ABOVE = 0.1
"""The share of its largest value above which a place of the truth counts for NSS."""


class Fit(NamedTuple):
    """How a heat fits a map of the truth."""

    kld: float
    sim: float
    nss: float


def ready(
    model: Any,
    source: Source,
    *,
    mask: str | None = None,
    role: str | None = None,
    sigma: float = 0.0,
    interpolation: Interpolation = "bilinear",
) -> None:
    """Raise InputError for a mask or role that the source lacks, and for numbers that do not fit."""
    _mask_of(source, mask)
    _role_of(source, role)
    if sigma < 0:
        raise InputError(f"sigma is {sigma}; it is a number of positions, 0 or more")
    if interpolation not in get_args(Interpolation):
        raise unknown("interpolation", interpolation, get_args(Interpolation))


def affordance(
    model: Any,
    source: Source,
    *,
    mask: str | None = None,
    role: str | None = None,
    sigma: float = 0.0,
    interpolation: Interpolation = "bilinear",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `kld`, `sim` and `nss`, means over the images.

    `mask` is the map of the truth, by default `heat` or the only mask; `role` that of the text, by
    default verb, else caption or the first. `sigma` is the standard deviation of the filter in
    positions, 0 for none. Also returned: `n` images, `bad` samples by reason, and the protocol.
    """
    ready(model, source, mask=mask, role=role, sigma=sigma, interpolation=interpolation)
    mask = _mask_of(source, mask)
    role = _role_of(source, role)
    steps = Steps(progress, len(source))
    bad = Counter[str]()
    found: list[Fit] = []

    def asked(sample: Sample) -> tuple[str, np.ndarray]:
        text = texts_of(sample, role)[0]
        if mask not in sample.masks:
            raise BadSample("no-mask", f"{sample.key} has no mask {mask}")
        truth = np.asarray(sample.masks[mask].decode().convert("L"), np.float64)
        if truth.max() == truth.min():
            raise BadSample("flat-mask", f"{sample.key} has a mask that is the same everywhere")
        return text, truth

    for pixels, facts in read_images(
        model, source, asked, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        for own, (text, truth) in zip(pixels, facts, strict=True):
            heat = model.heat(own[None], [text])[0, 0]
            size = (truth.shape[1], truth.shape[0])
            whole = heat_map(
                heat, model.preprocess, size, sigma=sigma, interpolation=interpolation
            ).numpy()
            found.append(fit(np.nan_to_num(whole, nan=float(heat.min())), truth))
    if not found:
        raise InputError(f"no sample of source {source.name!r} has a text and a mask of its place")
    kld, sim, nss = np.array(found).mean(0).tolist()
    protocol = protocol_of(
        "affordance",
        source,
        model,
        exact=exact,
        field=f"{mask}:{role}",
        rule="maps from 0 to 1, then divided by their sums; NSS where the truth is above a tenth",
        options=(f"sigma={sigma:g}", interpolation),
    )
    return {"kld": kld, "sim": sim, "nss": nss, "n": len(found), "bad": dict(bad)} | describe(
        protocol, model
    )


def fit(heat: np.ndarray, truth: np.ndarray) -> Fit:
    """Return KLD, SIM and NSS of a heat (H, W) against a map of the truth (H, W).

    >>> found = fit(np.array([[0.0, 2], [2, 0]]), np.array([[0.0, 1], [2, 1]]))
    >>> [round(value, 5) for value in found]
    [6.38789, 0.75, 0.33333]
    """
    from_zero = _from_zero(truth)
    g = _divided(from_zero)
    p = _divided(_from_zero(heat))
    spread = heat.std()
    scaled = (heat - heat.mean()) / spread if spread > 0 else np.zeros_like(heat)
    return Fit(
        kld=float((g * np.log(g / (p + EPSILON) + EPSILON)).sum()),
        sim=float(np.minimum(g, p).sum()),
        nss=float(scaled[from_zero > ABOVE].mean()),
    )


def _from_zero(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1; 0 where all are equal."""
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def _divided(values: np.ndarray) -> np.ndarray:
    return values / max(values.sum(), np.finfo(float).tiny)


def _mask_of(source: Source, mask: str | None) -> str:
    names = [name.removeprefix("masks.") for name in source.schema() if name.startswith("masks.")]
    if mask is not None and mask not in names:
        raise unknown(f"mask of source {source.name!r}", mask, names)
    if mask is None and "heat" not in names and len(names) != 1:
        raise InputError(
            f"source {source.name!r} has {len(names)} masks; name the map of the truth with mask"
        )
    return mask or ("heat" if "heat" in names else names[0])


def _role_of(source: Source, role: str | None) -> str:
    given = "verb" if role is None and "texts.verb" in source.schema() else role
    return role_of("affordance", source, given)
