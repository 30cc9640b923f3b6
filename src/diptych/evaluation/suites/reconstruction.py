"""Reconstruction: how well a model draws masked patches of images from their texts.

    error        mean_i mean over masked pixels of (drawn from y_i - own)², colours from 0 to 1
    other_error  the same with the text of another sample and the same mask: what the texts tell is
                 the difference
    iou          of the patches masked, those that y_i is about, with the objects that it describes,
                 pixel by pixel

The text of a sample is its first of the role; the next different text of the source is the other
one. Chance draws each masked patch in the mean grey of its own pixels, which a model that learned
standardised pixels is given; of `iou` it masks as many patches at random. Sources: He et al. 2022
(MAE); Ma et al. 2024 (SyCoCa).

Dimensions: N images, H x W pixels, h x w patches.
"""

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from diptych.data.sample import Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_images, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._patches import laid_under
from diptych.evaluation.suites.denoising import others
from diptych.evaluation.suites.retrieval import role_of, texts_of

card = {
    "title": "Reconstruction: masked patches of images, drawn from their texts",
    "needs": ["images.main", "texts"],
    "abilities": ["preprocess", "reconstruct"],
}


def ready(model: Any, source: Source, *, role: str | None = None) -> None:
    """Raise InputError for a role that the source lacks."""
    role_of("reconstruction", source, role)


def reconstruction(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above, with the chance values, for the texts of `role`; `iou` where texts
    tell the objects that they describe, and the source has their masks.

    Also returned: `n` pairs, `bad` samples by reason, and the protocol. Raises InputError for a model
    that masks no patch.
    """
    role = role_of("reconstruction", source, role)
    bad: Counter[str] = Counter()
    steps = Steps(progress, len(source))
    other = others(read_texts(source, lambda sample: texts_of(sample, role)[0], Counter()))

    def described(sample: Sample) -> tuple[str, np.ndarray | None]:
        """The text, and the pixels (H, W) of what it describes."""
        words = texts_of(sample, role)[0]
        text = next(text for text in sample.texts if text.text == words)
        objects = text.attrs.get("objects")
        if "instance" not in sample.masks or not objects:
            return words, None
        plane = laid_under(np.asarray(sample.masks["instance"].decode()), model.preprocess, 0)
        return words, np.isin(plane, [number + 1 for number in objects])

    errors: list[Tensor] = []
    ious: list[tuple[float, float]] = []
    for pixels, facts in read_images(
        model, source, described, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        texts = [words for words, _ in facts]
        masks = model.attentive_mask(pixels, texts, batch_size=batch_size)
        if not masks.any():
            raise InputError("this model masks no patch of its images; train one that does")
        wrong = [other[words] for words in texts]
        errors.append(_errors(model, pixels, masks, texts, wrong, batch_size))
        shown = interpolate(masks[:, None].float(), pixels.shape[2:])[:, 0].bool().numpy()
        ious += [
            _overlap(mask, area)
            for mask, (_, area) in zip(shown, facts, strict=True)
            if area is not None and area.any()
        ]
    error, other_error, flat = torch.cat(errors).double().mean(0).tolist()
    found = {"error": error, "chance_error": flat, "other_error": other_error}
    if ious:
        found |= dict(zip(("iou", "chance_iou"), np.mean(ious, axis=0).tolist(), strict=True))
    protocol = protocol_of(
        "reconstruction",
        source,
        model,
        exact=exact,
        field=role,
        rule="first text of each sample, whose patches are masked",
    )
    return {**found, "n": sum(map(len, errors)), "bad": dict(bad)} | describe(protocol, model)


def _errors(
    model: Any,
    pixels: Tensor,
    masks: Tensor,
    texts: list[str],
    wrong: list[str],
    batch_size: int,
) -> Tensor:
    """The errors (N, 3) of masked patches drawn from the texts, from the wrong ones, and in grey."""
    own = pixels / 255
    patch = own.shape[-2] // masks.shape[-2], own.shape[-1] // masks.shape[-1]
    greys = avg_pool2d(own.mean(1, keepdim=True), patch)
    hidden = interpolate(masks[:, None].float(), own.shape[2:])
    count = 3 * hidden.sum((1, 2, 3))
    drawn = [
        model.reconstruct(pixels, words, hidden=masks, batch_size=batch_size)
        for words in (texts, wrong)
    ]
    each = [
        ((found.cpu() - own).square() * hidden).sum((1, 2, 3)) / count
        for found in (*drawn, interpolate(greys, own.shape[2:]))
    ]
    return torch.stack(each, dim=1)


def _overlap(mask: np.ndarray, area: np.ndarray) -> tuple[float, float]:
    """The IoU of masked pixels (H, W) with those of an area, and that of as many at random."""
    r = mask.mean()
    a = area.mean()
    return float((mask & area).sum() / (mask | area).sum()), float(a * r / (a + r - a * r))
