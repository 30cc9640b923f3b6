"""Layers that let vectors of images take the place of vectors of texts, which something was trained
on.

    z = a / |a|;    z <- move(z);    z <- z + w e,  e ~ N(0, I_d), in training;    z <- z / |z|

    none         move(z) = z
    mean         z + s mu,  mu the mean image less the mean text
    random       z + s u,   u a unit vector, drawn once
    linear       (W z + b) / |W z + b|,  the least squares of images from their texts
    covariance   z itself; in training mu + c e' is added beside the noise, e' ~ N(0, Cov of the differences)

The noise has the standard deviation w in each coordinate, so its length is w √d, more than that of
z: the cosine before and after is about 1 / √(1 + w² d). Images pass through none of it.

Source: Gu et al. 2023 (CLOSE), whose code has c = 3, which its text does not tell. There a vector
that was moved is made unit again in training alone; here always. [choice]

Dimensions: B vectors, d their width, N pairs, n draws of a vector.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.errors import InputError, unknown
from diptych.spec import parse

WIDTH = 768
NOISE = 0.08
"""The paper's width of vectors, and its w for them."""


def usual_noise(width: int) -> float:
    """w for vectors of another width, such that the noise has the length that it has at the
    paper's.

    >>> round(usual_noise(768), 4), round(usual_noise(192), 4)
    (0.08, 0.16)
    """
    return NOISE * (WIDTH / width) ** 0.5


class Gap(nn.Module):
    """Noise alone, and the base of the others; in evaluation mode unit vectors come through as they
    are.

    >>> gap = Gap(4, noise=0.5).eval()
    >>> gap(torch.tensor([[3.0, 0.0, 4.0, 0.0]])).tolist()
    [[0.6..., 0.0, 0.8..., 0.0]]
    """

    paired: ClassVar[bool] = False
    """Whether it is fitted to pairs of images and texts."""
    draws: ClassVar[int] = 1
    """Normal vectors that one vector takes."""

    def __init__(self, width: int, noise: float):
        super().__init__()
        if noise < 0:
            raise InputError(f"noise is {noise}; it is a standard deviation, at least 0")
        self.width = width
        self.noise = noise

    def forward(self, z: Tensor, draws: Tensor | None = None) -> Tensor:
        """Vectors (B, d) -> (B, d), unit; in training with standard normal `draws` (B, n, d) as
        their noise."""
        z = self.move(normalize(z, dim=-1))
        if self.training and draws is not None:
            z = z + self.spread(draws)
        return self.finish(z)

    def move(self, z: Tensor) -> Tensor:
        """What is done to unit vectors of texts in training and after it."""
        return z

    def spread(self, draws: Tensor) -> Tensor:
        """What is added in training."""
        return self.noise * draws[:, 0]

    def finish(self, z: Tensor) -> Tensor:
        """Unit length."""
        return normalize(z, dim=-1)

    def fit(self, images: np.ndarray, texts: np.ndarray) -> None:
        """Learn from the unit vectors of pairs (N, d), (N, d); only those that are `paired` do."""
        raise NotImplementedError


class Shift(Gap):
    """The mean difference, `scale` times."""

    paired = True
    shift: Tensor

    def __init__(self, width: int, noise: float, *, scale: float = 1.0):
        super().__init__(width, noise)
        self.scale = scale
        self.register_buffer("shift", torch.zeros(width))

    def move(self, z: Tensor) -> Tensor:
        return z + self.scale * self.shift

    def fit(self, images: np.ndarray, texts: np.ndarray) -> None:
        x, y = _pairs(images, texts)
        self.shift.copy_(x.mean(0) - y.mean(0))


class RandomShift(Gap):
    """One direction, of length `scale`."""

    shift: Tensor

    def __init__(self, width: int, noise: float, *, scale: float = 0.5):
        super().__init__(width, noise)
        self.register_buffer("shift", scale * normalize(torch.randn(width), dim=0))

    def move(self, z: Tensor) -> Tensor:
        return z + self.shift


class LinearMap(Gap):
    """Least squares with an intercept, of smallest norm where texts do not fill the space."""

    paired = True
    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, noise: float):
        super().__init__(width, noise)
        self.register_buffer("weight", torch.eye(width))
        self.register_buffer("bias", torch.zeros(width))

    def move(self, z: Tensor) -> Tensor:
        return normalize(z @ self.weight.T + self.bias, dim=-1)

    def fit(self, images: np.ndarray, texts: np.ndarray) -> None:
        x, y = _pairs(images, texts)
        mean_x = x.mean(0)
        mean_y = y.mean(0)
        weight = torch.linalg.lstsq(y - mean_y, x - mean_x, driver="gelsd").solution.T
        self.weight.copy_(weight)
        self.bias.copy_(mean_x - weight @ mean_y)


class Covariance(Gap):
    """Noise as the differences between images and texts have it, `factor` times, about their
    mean."""

    paired = True
    draws = 2
    shift: Tensor
    root: Tensor

    def __init__(self, width: int, noise: float, *, factor: float = 1.0):
        super().__init__(width, noise)
        self.factor = factor
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("root", torch.zeros(width, width))

    def spread(self, draws: Tensor) -> Tensor:
        return super().spread(draws) + self.shift + self.factor * (draws[:, 1] @ self.root.T)

    def fit(self, images: np.ndarray, texts: np.ndarray) -> None:
        x, y = _pairs(images, texts)
        values, vectors = torch.linalg.eigh(torch.cov((x - y).T))
        self.shift.copy_((x - y).mean(0))
        self.root.copy_(
            vectors * values.clamp(min=0).sqrt()
        )  # root root^T is the covariance, singular or not


KINDS: dict[str, type[Gap]] = {
    "none": Gap,
    "mean": Shift,
    "random": RandomShift,
    "linear": LinearMap,
    "covariance": Covariance,
}


def gap(spec: str, width: int, noise: float | None = None) -> Gap:
    """The layer of a spec, such as "mean:scale=0.5", for vectors of a width; the noise is
    `usual_noise` where it is not given. Raises InputError for an unknown name or option.

    >>> gap("covariance:factor=3", 4).factor
    3
    """
    parsed = parse(spec)
    if parsed.name not in KINDS:
        raise unknown("gap layer", parsed.name, KINDS)
    options: dict[str, Any] = parsed.options
    try:
        return KINDS[parsed.name](width, usual_noise(width) if noise is None else noise, **options)
    except TypeError:
        raise InputError(
            f"gap layer {spec!r}: mean and random take scale, covariance takes factor, and no other option is there"
        ) from None


def _pairs(images: np.ndarray, texts: np.ndarray) -> tuple[Tensor, Tensor]:
    """Both sides in double precision; InputError where there are too few pairs to learn from."""
    x, y = (
        torch.as_tensor(values, dtype=torch.float64, device="cpu") for values in (images, texts)
    )
    if x.shape != y.shape or len(x) < 2:
        raise InputError(
            f"vectors {tuple(x.shape)} and {tuple(y.shape)} are no two pairs; give more pairs"
        )
    return x, y
