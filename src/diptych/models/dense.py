"""What a model says of each position or pixel of images, compared with texts.

Dimensions: N images, C classes, h x w positions, E embedding, H x W pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.errors import InputError

GROUND = "background"
"""The class that has no meaningful name."""


def patch_vectors(
    model: Any, images: Any, batch_size: int = 64, *, route: str = "tokens", **options: Any
) -> tuple[Tensor, tuple[int, int]]:
    """Unit vectors (N, h · w, E) of the positions of images, and the grid (h, w).

    `images`, `route` and further options are those of `Model.represent`.
    """
    if route != "tokens":  # a model with one route need not know of others
        options["route"] = route
    encoded = model.represent(images, batch_size=batch_size, **options)
    pooler = model.encoder.query_pooler
    fits = pooler is not None or encoded.tokens.shape[-1] == encoded.pooled.shape[-1]
    if encoded.grid is None or not fits:
        raise InputError(
            f"{model.name} has no positions to point at: its image tower pools them away"
        )
    with torch.inference_mode():
        on_device = replace(encoded, tokens=encoded.tokens.to(model.device))
        vectors = model.encoder.position_vectors(on_device).float().cpu()
    return F.normalize(vectors, dim=-1), encoded.grid


def pixel_classes(
    model: Any, images: Any, classes: Tensor, batch_size: int = 64, **options: Any
) -> Tensor:
    """The number of the class at each pixel of preprocessed images (N, H, W), int64: that whose unit
    vector in `classes` (C, E) has the highest cosine with the position, scaled up to the pixels.

    `images` and `options` are those of `patch_vectors`.
    """
    positions, grid = patch_vectors(model, images, batch_size, **options)
    shape = model.preprocess.shape[-2:]
    texts = classes.float().cpu()
    return torch.stack([by_pixel((own @ texts.T).T.unflatten(1, grid), shape) for own in positions])


def by_pixel(scores: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The class with the highest score at each pixel (H, W), of scores (C, h, w) that are scaled up
    bilinearly.

    >>> by_pixel(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), (1, 4))
    tensor([[0, 0, 1, 1]])
    """
    return F.interpolate(scores[None], shape, mode="bilinear", align_corners=False)[0].argmax(0)


@contextmanager
def background_below(model: Any, threshold: float | str | None) -> Iterator[None]:
    """Context in which pixels of the model's images are of the background if their best score is below
    a threshold, from 0 to 1; None: the model's own.

    Raises InputError for a model without such a rule, and for another threshold.
    """
    if threshold is None:
        yield
        return
    if not hasattr(model, "background"):
        raise InputError(
            f"{model.name} has no rule for what is background; leave the threshold out"
        )
    try:
        value = float(threshold)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise InputError(
            f"background={threshold} is no threshold of scores; give a number from 0 to 1"
        )
    before = model.background
    model.background = value
    try:
        yield
    finally:
        model.background = before
