"""Reconstruction of an image: the patches that a sentence is about are masked and drawn anew from it,
as numbers and as an image of three panels.

Dimensions: h x w patches, S sides of the pixels that the model reads.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from diptych.methods.abilities import require

_LEAST = 384  # the side below which a panel is enlarged
_GAP = 12  # pixels between panels
_GREY = 0.5  # of masked patches


@dataclass(frozen=True)
class Reconstructed:
    """Which patches of an image were masked, `mask` (h, w) bool, and the mean squared error `error`
    of their pixels from 0 to 1 as they were drawn."""

    sentence: str
    mask: np.ndarray
    error: float


def reconstruct_image(
    model: Any, path: str, sentence: str, *, share: float | None = None, name: str | None = None
) -> tuple[Reconstructed, Image.Image]:
    """Return what is drawn of the image of a file where the `share` of the patches that a sentence is
    most about is masked (None: the share of training), and three panels: the image as the model
    reads it, with masked patches grey, and with those drawn.

    `name` is how the user calls the model. Raises InputError for one without `reconstruct`, and for a
    file that is no image.
    """
    require(model, "reconstruct", "reconstructing an image", name)
    masked = model.attentive_mask(path, sentence, share=share, exact=True)
    nothing = torch.zeros_like(masked)
    [own] = model.reconstruct(path, sentence, hidden=nothing, exact=True)
    [drawn] = model.reconstruct(path, sentence, hidden=masked, exact=True)
    pixels = interpolate(masked[:, None].float(), own.shape[1:])[0].bool()
    errors = (drawn - own).square()[pixels.expand_as(own)]
    found = Reconstructed(sentence, masked[0].numpy(), float(errors.mean()) if len(errors) else 0.0)
    return found, beside_each_other(own, own.masked_fill(pixels, _GREY), drawn)


def beside_each_other(*panels: Tensor) -> Image.Image:
    """Return images (3, H, W), from 0 to 1, as one, enlarged by a whole factor where they are small."""
    height, width = panels[0].shape[1:]
    factor = math.ceil(_LEAST / max(height, width))
    wide = width * factor
    whole = Image.new("RGB", (len(panels) * (wide + _GAP) - _GAP, height * factor), (255, 255, 255))
    for at, panel in enumerate(panels):
        pixels = (panel.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        image = Image.fromarray(pixels).resize((wide, height * factor), Image.Resampling.NEAREST)
        whole.paste(image, (at * (wide + _GAP), 0))
    return whole
