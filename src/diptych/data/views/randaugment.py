"""RandAugment without operations that change or invert colours, on pixels of one image.

Dimensions: H x W pixels.
"""

import math

import numpy as np
import torch
from torch import Tensor

OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
)
_SHEAR = 0.3  # the greatest of each change
_SHIFT = 10 / 256  # of a side
_TURN = 30.0  # degrees
_GREY = [128.0] * 3  # where the image does not reach


def randaugment(
    pixels: np.ndarray,
    count: int,
    magnitude: float,
    rng: np.random.Generator,
    applied: float = 0.5,
) -> np.ndarray:
    """Apply to pixels (H, W, 3), uint8, each of `count` operations, drawn with replacement, with
    probability `applied`.

    `magnitude` m in [0, 1] is that of all operations that have one: factors 0.1 + 1.8 m of brightness and
    sharpness; shears by 0.3 m, translations by 10/256 m of a side and rotations by 30 m degrees, in
    either direction. Source: Cubuk et al. 2020, in the form of ALBEF.
    """
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for number in rng.integers(len(OPERATIONS), size=count):
        done = rng.uniform() < applied
        sign = 1 if rng.uniform() < 0.5 else -1
        if done:
            image = changed(image, OPERATIONS[number], magnitude, sign)
    return image.permute(1, 2, 0).numpy()


def changed(image: Tensor, operation: str, magnitude: float, sign: int = 1) -> Tensor:
    """The image (3, H, W), uint8, after one of `OPERATIONS`, in the direction of `sign`."""
    from torchvision.transforms.v2 import functional as F

    factor = 0.1 + 1.8 * magnitude
    share = sign * magnitude
    slant = math.degrees(math.atan(_SHEAR * share))
    match operation:
        case "autocontrast":
            return F.autocontrast(image)
        case "equalize":
            return F.equalize(image)
        case "brightness":
            return F.adjust_brightness(image, factor)
        case "sharpness":
            return F.adjust_sharpness(image, factor)
        case "shear_x":
            return _moved(image, shear=(slant, 0.0))
        case "shear_y":
            return _moved(image, shear=(0.0, slant))
        case "translate_x":
            return _moved(image, shift=(_SHIFT * share * image.shape[2], 0.0))
        case "translate_y":
            return _moved(image, shift=(0.0, _SHIFT * share * image.shape[1]))
        case "rotate":
            return _moved(image, angle=_TURN * share)
    return image


def _moved(
    image: Tensor,
    angle: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    shear: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Rotated about the centre, shifted, or sheared about the upper left corner."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    return F.affine(
        image,
        angle=angle,
        translate=list(shift),
        scale=1.0,
        shear=list(shear),
        interpolation=InterpolationMode.BILINEAR,
        fill=_GREY,
        center=[0.0, 0.0] if any(shear) else None,
    )
