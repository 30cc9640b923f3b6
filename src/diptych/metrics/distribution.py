"""How vectors are distributed: ranks of their spread, uniformity, isotropy; and how two lists of numbers correlate.

Dimensions: N vectors or numbers, E embedding.
"""

import math
from typing import Literal

import numpy as np
import torch

from diptych.errors import InputError
from diptych.metrics.arrays import Array, finite, lab


def effective_rank(x: Array) -> float:
    """The effective rank of x (N, E): the exponential of the entropy of its singular values.

        exp( - sum_i p_i log p_i ),        p_i = s_i / sum_j s_j

    Between 1 (a line) and min(N, E). Not centred. Source: Roy and Vetterli 2007.

    >>> round(effective_rank(np.eye(5)), 4), round(effective_rank(np.ones((5, 3))), 4)
    (5.0, 1.0)
    """
    values = torch.linalg.svdvals(finite("vectors", x).double())
    total = values.sum()
    if total == 0:
        return 0.0
    share = values / total
    return float(torch.special.entr(share).sum().exp())


def covariance_rank(x: Array) -> int:
    """The rank of the covariance of the rows of x (N, E), at most min(N - 1, E).

    An eigenvalue counts if it exceeds the largest one times E times float32's epsilon, since
    embeddings are float32.

    >>> covariance_rank(np.eye(5)), covariance_rank(np.ones((5, 3)))
    (4, 0)
    """
    values = finite("vectors", x).double()
    if len(values) < 2:
        return 0
    spectrum = torch.linalg.eigvalsh(torch.cov(values.T).reshape(values.shape[1], -1))
    return int(
        (
            spectrum
            > values.shape[1] * torch.finfo(torch.float32).eps * spectrum.max().clamp(min=1e-12)
        ).sum()
    )


def wasserstein_uniformity(x: Array) -> float:
    """The Wasserstein distance of unit vectors x (N, E) from a uniform spread; lower is more
    uniform.

        W = sqrt( |μ|² + 1 + tr Σ - 2/sqrt(E) · tr Σ^½ )

    This is the 2-Wasserstein distance of N(μ, Σ), with the mean and covariance of x, from N(0,
    I/E). It is between 0 and 2; points in a subspace are far from 0. Source: Fang et al. 2024.

    >>> round(wasserstein_uniformity(np.concatenate([np.eye(3), -np.eye(3)])), 6)
    0.0
    """
    values = finite("vectors", x).double()
    mean = values.mean(0)
    centred = values - mean
    spectrum = torch.linalg.svdvals(centred).square() / len(values)
    square = (
        mean.square().sum()
        + 1
        + spectrum.sum()
        - 2 / math.sqrt(values.shape[1]) * spectrum.sqrt().sum()
    )
    return float(square.clamp(min=0).sqrt())


def isotropy(x: Array) -> float:
    """The isotropy of x (N, E): the least over the greatest partition function along the principal
    axes.

        min_c Z(c) / max_c Z(c),      Z(c) = sum_i exp<c, x_i>,      c: ± the eigenvectors of xᵀx

    It is 1 if all directions are alike, and at least e^-2 on unit vectors. Source: Mu and Viswanath
    2018. Both signs of an axis are used here, so that the value does not depend on the sign chosen
    by the solver.

    >>> round(isotropy(np.concatenate([np.eye(3), -np.eye(3)])), 4)
    1.0
    """
    values = finite("vectors", x).double()
    axes = torch.linalg.eigh(values.T @ values).eigenvectors
    along = values @ axes
    partition = torch.cat([along, -along], 1).logsumexp(0)
    return float((partition.min() - partition.max()).exp())


def spread(x: Array) -> float:
    """The spread of unit vectors x (N, E): 0 if all are equal, 1 if their mean is 0.

        sqrt( sum_j var_j ) = sqrt( mean_i |x_i - mean x|² )

    It is SimSiam's standard deviation of the coordinates (Chen and He 2021, figure 2), but over all
    coordinates together, and so independent of the axes.

    >>> spread(np.ones((4, 3))), spread(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
    (0.0, 1.0)
    """
    values = finite("vectors", x).double()
    return float(values.var(0, correction=0).sum().sqrt())


def correlation(
    x: Array, y: Array, kind: Literal["pearson", "spearman"] = "pearson", level: float = 0.95
) -> tuple[float, float, float]:
    """The correlation r of two lists (N,), and the ends of its confidence interval by Fisher's
    transformation.

        tanh(atanh r ± z · s),        s² = 1 / (n - 3) for Pearson's r,   (1 + r²/2) / (n - 3) for Spearman's

    Ties share their mean rank. For a constant list r is 0. The interval is NaN for fewer than four
    pairs. Raises InputError for lists that differ in length, have fewer than two numbers, or have
    values that are not finite. Sources: Fisher 1921; Bonett and Wright 2000 (Spearman's s).

    >>> r, low, high = correlation(np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 2, 3, 5, 4]), "spearman")
    >>> round(r, 2), low < r < high
    (0.9, True)
    """
    a, b = (np.asarray(values, np.float64) for values in (x, y))
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2 or not np.isfinite([a, b]).all():
        raise InputError(
            f"{a.shape} and {b.shape} numbers do not correlate; give two finite lists of one length"
        )
    with lab("a correlation"):
        from scipy import stats
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        r = 0.0
    else:
        measure = stats.pearsonr if kind == "pearson" else stats.spearmanr
        r = float(measure(a, b).statistic)  # pyright: ignore  (scipy's stubs know no statistic)
    if len(a) < 4:
        return r, math.nan, math.nan
    spread = math.sqrt((1.0 if kind == "pearson" else 1 + r**2 / 2) / (len(a) - 3))
    z = float(stats.norm.ppf((1 + level) / 2)) * spread
    middle = math.atanh(max(-1 + 1e-15, min(r, 1 - 1e-15)))
    return r, math.tanh(middle - z), math.tanh(middle + z)
