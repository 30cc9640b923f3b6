"""Uniformity of points, within one set and across two, alignment of partners, and entropy.

    U(x) = log mean_{i<j} exp(-t |x_i - x_j|²)      U(x, y) = log mean_{i≠j} exp(-t |x_i - y_j|²)
    A(x, y) = mean_i |x_i - y_i|²
    H(x) = -mean_i log mean_j exp(-t |x_i - x_j|²)

The means of the uniformities run over distinct pairs: N(N-1)/2 within a set, N(N-1) across two,
without partners. Lower is more uniform; on unit vectors U is in [-4t, 0]. They serve as losses of a
batch and as metrics of all embeddings. Inputs are not normalised; memory is O(N · tile) (see
`core`). Distances are differences of products: give points that are long beside their distances in
float64.

    -t |x_i - y_j|² = 2t <x'_i, y'_j>,      x' = (x, -|x|²/2, 1),  y' = (y, 1, -|y|²/2)

so the log-sum-exp of a row is the core's normaliser. Sources: Wang and Isola 2020 (uniformity,
alignment); Fahim et al. 2024 (across two sets); Louiset et al. 2024 (entropy).

Dimensions: N points, D width.
"""

import math

import torch
from torch import Tensor

from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.objectives.core import normalisers, off_diagonal


def uniformity(x: Tensor, t: float = 2.0, *, tile: int | None = None) -> Tensor:
    """The log of the mean Gaussian potential of the N(N-1)/2 distinct pairs of x (N, D).

    It is 0 if all points are equal.

    `tile` is the number of rows in a strip; None chooses it by memory. Half precision is computed
    in float32. Double backward is not supported. Raises InputError for fewer than two points.

    >>> x = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])  # log((4 e^-4 + 2 e^-8) / 6)
    >>> round(uniformity(x).item(), 4)
    -4.3963
    """
    return _potential(x, x, t, tile)


def cross_uniformity(x: Tensor, y: Tensor, t: float = 2.0, *, tile: int | None = None) -> Tensor:
    """The log of the mean Gaussian potential of the N(N-1) pairs of an x_i and a y_j, i ≠ j; x and
    y are (N, D).

    `tile`, precision and errors are as in `uniformity`; also raises InputError if the shapes of x
    and y differ.

    >>> x = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    >>> round(cross_uniformity(x, x).item(), 4)
    -4.3963
    """
    _check(x, y)
    return _potential(x, y, t, tile)


def kernel_entropy(x: Tensor, t: float = 2.0, *, tile: int | None = None) -> Tensor:
    """The kernel estimate of the entropy of x (N, D), in [0, log N], up to a constant: minus the mean
    log of the mean Gaussian potential of a point and all points, itself included.

    It is 0 if all points are equal. `tile`, precision and errors are as in `uniformity`.

    >>> kernel_entropy(100 * torch.eye(4)).exp()  # four points far apart
    tensor(4.)
    """
    with torch.autocast(x.device.type, enabled=False):
        by_row = normalisers(*_extended_pair(x, x), 2 * t, tile=tile)
        return math.log(len(x)) - by_row.mean()


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """The mean squared distance of partners, the rows of x and y (N, D).

    On unit vectors it is 2 - 2 · (mean cosine).

    Half precision is computed in float32. Raises InputError for shapes that differ.

    >>> x = torch.eye(2)
    >>> alignment(x, x).item(), alignment(x, -x).item()
    (0.0, 4.0)
    """
    _check(x, y)
    with torch.autocast(x.device.type, enabled=False):
        return (at_least_float32(x) - at_least_float32(y)).square().sum(1).mean()


def _potential(x: Tensor, y: Tensor, t: float, tile: int | None) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = _extended_pair(x, y)
        by_row = normalisers(rows, columns, 2 * t, allowed=off_diagonal(x.device), tile=tile)
        return by_row.logsumexp(0) - math.log(len(x) * (len(x) - 1))


def _extended_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x' and y'. Raises InputError for fewer than two points."""
    if x.dim() != 2 or len(x) < 2:
        raise InputError(
            f"points of shape {tuple(x.shape)} have no uniformity; give (N, D) with at least two rows"
        )
    return _extended(x, last=True), _extended(y, last=False)


def _extended(x: Tensor, *, last: bool) -> Tensor:
    """(x, -|x|²/2, 1), or with the two swapped."""
    x = at_least_float32(x)
    half = x.square().sum(1, keepdim=True) / -2
    one = x.new_ones(len(x), 1)
    return torch.cat([x, half, one] if last else [x, one, half], 1)


def _check(x: Tensor, y: Tensor) -> None:
    if x.dim() != 2 or x.shape != y.shape:
        raise InputError(
            f"points {tuple(x.shape)} and {tuple(y.shape)} are no partners; give two of shape (N, D)"
        )
