"""What a model says of each position or pixel of images, compared with texts.

Dimensions: N images, C classes, h x w positions, E embedding, H x W pixels.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.errors import InputError


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
