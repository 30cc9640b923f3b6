"""The four terms of the loss, and the term of known attributes.

    align(a, b) = mean_i |a_i - b_i|² / (2 tau)
    unif(a)     = log mean_{i<j} exp(-|a_i - a_j|² / (2 tau))
    J(c, s)     = mean_i log mean_j exp(-(|c_i - c_j|² + |s_i - s_j|²) / (2 tau)),   j = i included

-J is a kernel estimate of the joint entropy of c and s. Salient vectors are not normalised and may
be long beside their distances, so uniformity and J are computed in float64.

Dimensions: N samples, D width, K attributes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diptych.dtypes import at_least_float32
from diptych.objectives import kernel_entropy, uniformity

CONTINUOUS = 0.025
"""tau of the similarity of continuous attributes, and of the background's alignment there."""


def common_term(views: Sequence[Tensor], tau: float, weight: float = 2.0) -> Tensor:
    """align(c_1, c_2) + weight · mean_v unif(c_v) of two views (N, D) of unit vectors."""
    first, second = views
    return mean_square(first - second, tau) + weight * mean_uniformity(views, tau)


def salient_term(
    views: Sequence[Tensor], target: Tensor, tau: float, weight: float = 2.0
) -> Tensor:
    """align of the targets + weight · mean_v unif(s~_v) of two views (N, D), where the rows s~ of the
    background are 0; `target` (N,) bool."""
    first, second = views
    apart = [pinned(view, target) for view in views]
    return mean_square(first - second, tau, target) + weight * mean_uniformity(apart, tau)


def background_term(views: Sequence[Tensor], target: Tensor, tau: float) -> Tensor:
    """align(0, s_v) of the background, the mean over views (N, D)."""
    return _mean([mean_square(view, tau, ~target) for view in views])


def joint_term(
    common: Sequence[Tensor], salient: Sequence[Tensor], target: Tensor, tau: float
) -> Tensor:
    """J(c_v, s~_v), the mean over views (N, D) and (N, D')."""
    return _mean(
        [joint_potential(c, pinned(s, target), tau) for c, s in zip(common, salient, strict=True)]
    )


def joint_potential(common: Tensor, salient: Tensor, tau: float) -> Tensor:
    """J of common vectors (N, D) and salient ones (N, D'), in [-log N, 0]; 0 if all rows are equal."""
    both = torch.cat([common.double(), salient.double()], 1)
    return -kernel_entropy(both, 1 / (2 * tau))


def pinned(salient: Tensor, target: Tensor) -> Tensor:
    """Salient vectors (N, D) with the rows of the background at 0, through which no gradient passes."""
    return torch.where(target[:, None], salient, torch.zeros_like(salient))


def attributes_term(
    salient: Tensor, target: Tensor, attributes: Mapping[str, Tensor], tau: float
) -> Tensor:
    """The salient term of known attributes, the mean over dimensions k of one view (N, K):

        unif(s~_k) + [ mean_{i<j} w_ij (s_ik - s_jk)² + align(0, s_k) ] / 2

    The pairs are those of targets whose attribute k is known, and the last term is of the
    background. w is 1 for equal values of a discrete attribute (integers, -1 if missing) and 0 for
    others; for a continuous one (floats, NaN if missing) it is exp(-(y_i - y_j)² / (2 · 0.025)), and
    the tau of align is 0.025 as well.
    """
    terms = []
    for column, values in zip(salient.unbind(1), attributes.values(), strict=True):
        column = column[:, None]
        continuous = values.is_floating_point()
        known = target & (values.isfinite() if continuous else values >= 0)
        alike = _alike(column, values, known)
        at_zero = mean_square(column, CONTINUOUS if continuous else tau, ~target)
        terms.append(mean_uniformity([pinned(column, target)], tau) + (alike + at_zero) / 2)
    return _mean(terms)


def _alike(column: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """The mean over distinct known pairs of w_ij (s_i - s_j)²; 0 without a pair."""
    s = column[known]
    y = values[known]
    if y.is_floating_point():
        weights = torch.exp((y[:, None] - y).square() / (-2 * CONTINUOUS)).to(s.dtype)
    else:
        weights = (y[:, None] == y).to(s.dtype)
    pairs = max(len(s) * (len(s) - 1), 1)
    return (weights * (s - s.T).square()).sum() / pairs


def mean_square(x: Tensor, tau: float, rows: Tensor | None = None) -> Tensor:
    """mean_i |x_i|² / (2 tau) of x (N, D), over some rows (N,) bool; 0 without one."""
    with torch.autocast(x.device.type, enabled=False):
        squares = at_least_float32(x).square().sum(1) / (2 * tau)
        if rows is None:
            return squares.mean()
        return (squares * rows).sum() / rows.sum().clamp(min=1)


def mean_uniformity(views: Sequence[Tensor], tau: float) -> Tensor:
    """The mean of unif over views (N, D), in float64."""
    return _mean([uniformity(view.double(), 1 / (2 * tau)) for view in views])


def _mean(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()
