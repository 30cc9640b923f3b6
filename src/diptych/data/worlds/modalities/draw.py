"""The images of `modalities`: a texture for each modality, and shapes for findings.

Images are arrays (S, S, 3) of shares of white. Places are (x, y) in [-1, 1], y downwards.

Dimensions: S x S pixels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diptych.data.worlds._canvas import Canvas, Grey


def _mixed(image: Grey, mask: Grey, value: object) -> Grey:
    """The image with a value, or a colour, where the mask is 1."""
    return image * (1 - mask[..., None]) + np.asarray(value, np.float64) * mask[..., None]


def _rgb(grey: Grey) -> Grey:
    return np.repeat(np.clip(grey, 0, 1)[..., None], 3, axis=2)


def _x_ray(c: Canvas) -> Grey:
    lungs = np.minimum(c.ellipse(-0.42, 0, 0.32, 0.66), c.ellipse(0.42, 0, 0.32, 0.66))
    grey = 0.62 - 0.42 * c.inside(lungs) + 0.06 * np.cos(11 * (c.y + 0.25 * np.abs(c.x)))
    return _rgb(grey + 0.25 * c.inside(np.abs(c.x) / 0.1) + 0.05 * c.smooth(5) + c.grain(0.02))


def _ct(c: Canvas) -> Grey:
    body = c.ellipse(0, 0, 0.88, 0.7)
    grey = 0.42 * c.inside(body) + 0.5 * (c.inside(body) - c.inside(body, 0.88))
    spine = c.inside(c.ellipse(0, 0.45, 0.14, 0.14))
    return _rgb(grey * (1 - spine) + 0.95 * spine + 0.04 * c.smooth(6) + c.grain(0.02))


def _mri(c: Canvas) -> Grey:
    head = c.ellipse(0, 0, 0.68, 0.84)
    folds = 0.14 * np.sin(13 * head + 4 * c.smooth(6))
    inner = np.minimum(c.ellipse(-0.13, 0, 0.09, 0.24), c.ellipse(0.13, 0, 0.09, 0.24))
    grey = (0.5 + folds) * c.inside(head) - 0.35 * c.inside(inner)
    return _rgb(grey + 0.35 * (c.inside(head, 1.12) - c.inside(head, 1.02)) + c.grain(0.02))


def _sector(c: Canvas) -> Grey:
    """Where an ultrasound probe sees."""
    depth = np.hypot(c.x, c.y + 1.25)
    wide = np.abs(np.arctan2(c.x, c.y + 1.25)) < 0.72
    return wide * c.inside(np.abs(depth - 1.2) / 0.95, soft=0.05)


def _ultrasound(c: Canvas) -> Grey:
    speckle = 0.42 * c.rng.gamma(3.0, 1 / 3.0, size=(c.size, c.size))
    return _rgb((speckle + 0.1 * c.smooth(5)) * (1.1 - 0.25 * (c.y + 1)) * _sector(c))


def _histology(c: Canvas) -> Grey:
    tissue = np.array([0.92, 0.72, 0.84]) + 0.06 * c.smooth(7)[..., None]
    for x, y in c.rng.uniform(-1, 1, (40, 2)):
        tissue = _mixed(tissue, 0.8 * c.inside(c.ellipse(x, y, 0.08, 0.08)), (0.48, 0.3, 0.62))
    return tissue + c.grain(0.015)[..., None]


def _fundus(c: Canvas) -> Grey:
    disc = c.ellipse(0, 0, 0.92, 0.92)
    eye = np.array([0.82, 0.42, 0.16]) * (1.05 - 0.3 * disc + 0.06 * c.smooth(5))[..., None]
    side = -0.55 if c.rng.random() < 0.5 else 0.55
    for bend in (-0.75, -0.3, 0.3, 0.75):
        along = np.abs(c.x - side)
        vessel = c.inside(np.abs(c.y - bend * np.sqrt(along + 1e-3)) / 0.035)
        eye = _mixed(eye, 0.7 * vessel, (0.5, 0.12, 0.08))
    eye = _mixed(eye, c.inside(c.ellipse(side, 0, 0.16, 0.19)), (0.98, 0.86, 0.55))
    return eye * c.inside(disc, soft=0.05)[..., None]


_TEXTURES: dict[str, Callable[[Canvas], Grey]] = {
    "x-ray": _x_ray,
    "ct": _ct,
    "mri": _mri,
    "ultrasound": _ultrasound,
    "histology": _histology,
    "fundus": _fundus,
}

WHITE = (0.98, 0.98, 0.98)
BLACK = (0.03, 0.03, 0.03)
LOOKS = {
    "lung nodule": ("spot", WHITE),
    "pneumonia": ("cloud", WHITE),
    "effusion": ("band", WHITE),
    "liver cyst": ("spot", BLACK),
    "bleeding": ("cloud", WHITE),
    "calcifications": ("dots", WHITE),
    "brain tumour": ("spot", WHITE),
    "infarct": ("cloud", BLACK),
    "white matter lesions": ("dots", WHITE),
    "simple cyst": ("spot", BLACK),
    "gallstone": ("spot", WHITE),
    "ascites": ("band", BLACK),
    "tumour nest": ("spot", (0.3, 0.12, 0.5)),
    "necrosis": ("cloud", (0.99, 0.95, 0.9)),
    "fat cells": ("dots", WHITE),
    "retinal haemorrhage": ("spot", (0.35, 0.03, 0.03)),
    "scar": ("cloud", (0.98, 0.96, 0.85)),
    "drusen": ("dots", (0.99, 0.9, 0.5)),
}
"""The shape and the colour of each finding."""


def draw(
    modality: str, finding: str, place: tuple[float, float], radius: float, size: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image (S, S, 3), and where its finding is (S, S), 1 inside."""
    rng = np.random.Generator(np.random.PCG64(seed))
    gain = rng.uniform(0.85, 1.1)
    canvas = Canvas(size, rng)
    image = _TEXTURES[modality](canvas)
    mask = np.zeros((size, size))
    if finding != "normal":
        kind, colour = LOOKS[finding]
        mask = canvas.shape(kind, *place, radius)
        if modality == "ultrasound":
            mask = mask * _sector(canvas)
        image = _mixed(image, mask, colour)
    pixels = np.rint(255 * np.clip(gain * image, 0, 1)).astype(np.uint8)
    return pixels, (mask >= 0.5).astype(np.uint8)
