"""Layers that make vectors of images usable by a model that was trained on vectors of texts.

    z = a / |a|;    z <- move(z);    z <- z + w e,  e ~ N(0, I_d), in training;    z <- z / |z|

    none         move(z) = z
    mean         z + s mu,  mu the mean image less the mean text
    random       z + s u,   u a unit vector, drawn once
    linear       (W z + b) / |W z + b|,  the least squares of images from their texts
    covariance   z itself; in training mu + c e' is added beside the noise, e' ~ N(0, Cov of the differences)

The noise has the standard deviation w in each coordinate, so its length is w √d, more than that of
z: the cosine before and after is about 1 / √(1 + w² d). The vectors of images pass through no
layer.

Source: Gu et al. 2023 (CLOSE), whose code has c = 3, which the paper does not mention. There a
moved vector is normalised again in training only; here always. [choice]

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
"""The paper's w for vectors of `WIDTH` dimensions."""


def usual_noise(width: int) -> float:
    """Return w for vectors of another width, such that the noise has the same length as at the
    paper's.

    >>> round(usual_noise(768), 4), round(usual_noise(192), 4)
    (0.08, 0.16)
    """
    return NOISE * (WIDTH / width) ** 0.5


class Gap(nn.Module):
    """Noise alone, and the base class of the other layers; in evaluation mode it only normalises.

    >>> gap = Gap(4, noise=0.5).eval()
    >>> gap(torch.tensor([[3.0, 0.0, 4.0, 0.0]])).tolist()
    [[0.6..., 0.0, 0.8..., 0.0]]
    """

    paired: ClassVar[bool] = False
    """Whether the layer is fitted to pairs of images and texts."""
    draws: ClassVar[int] = 1
    """The number of normal vectors drawn for each vector."""

    def __init__(self, width: int, noise: float):
        super().__init__()
        if noise < 0:
            raise InputError(f"noise is {noise}; it is a standard deviation, at least 0")
        self.width = width
        self.noise = noise

    def forward(self, z: Tensor, draws: Tensor | None = None) -> Tensor:
        """Vectors (B, d) -> unit vectors (B, d), in training with standard normal `draws` (B, n, d)
        as noise."""
        z = self.move(normalize(z, dim=-1))
        if self.training and draws is not None:
            z = z + self.spread(draws)
        return self.finish(z)

    def move(self, z: Tensor) -> Tensor:
        """Transform unit vectors of texts, in training and in evaluation."""
        return z

    def spread(self, draws: Tensor) -> Tensor:
        """Return what training adds."""
        return self.noise * draws[:, 0]

    def finish(self, z: Tensor) -> Tensor:
        """Normalise to unit length."""
        return normalize(z, dim=-1)

    def fit(self, images: np.ndarray, texts: np.ndarray) -> None:
        """Fit the layer to the unit vectors of pairs (N, d), (N, d); only `paired` layers implement
        it."""
        raise NotImplementedError


class Shift(Gap):
    """Adds the mean difference, times `scale`."""

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
    """Adds one random direction of length `scale`."""

    shift: Tensor

    def __init__(self, width: int, noise: float, *, scale: float = 0.5):
        super().__init__(width, noise)
        self.register_buffer("shift", scale * normalize(torch.randn(width), dim=0))

    def move(self, z: Tensor) -> Tensor:
        return z + self.shift


class LinearMap(Gap):
    """Least squares with an intercept, of minimum norm if the texts do not span the space."""

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
    """Adds noise with the mean and covariance of the differences between images and texts;
    deviations from the mean are multiplied by `factor`."""

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
    """Return the layer of a spec, such as "mean:scale=0.5", for vectors of a width.

    The noise defaults to `usual_noise`. Raises InputError for an unknown name or option.

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
    """Return both sides in double precision. Raises InputError if there are fewer than two
    pairs."""
    x, y = (
        torch.as_tensor(values, dtype=torch.float64, device="cpu") for values in (images, texts)
    )
    if x.shape != y.shape or len(x) < 2:
        raise InputError(
            f"vectors {tuple(x.shape)} and {tuple(y.shape)} are no two pairs; give more pairs"
        )
    return x, y
