"""The probability that a pair is noise: a mixture of two Gaussians on the losses of all pairs.

Dimensions: N pairs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.rng import generator

_ITERATIONS = 100
_TOLERANCE = 1e-6  # of the mean log-likelihood
_FLOOR = 5e-4  # of variances


@dataclass(frozen=True)
class Mixture:
    """Two Gaussians, that of the lower mean first: the losses of clean pairs and those of noise."""

    weights: tuple[float, float]
    means: tuple[float, float]
    sds: tuple[float, float]

    def posterior(self, x: np.ndarray) -> np.ndarray:
        """The probability (N,) of the second component.

        It need not rise with x: the wider component has more mass on both sides.

        >>> round(float(Mixture((0.7, 0.3), (1, 3), (0.5, 0.8)).posterior(np.array(2.0))), 6)
        0.475382
        """
        return 1 / (1 + np.exp(np.clip(-self._log_odds(x), None, 700)))

    def noise(self, x: np.ndarray) -> np.ndarray:
        """The `posterior` (N,), but 0 below the mean of the first component, so that a lower loss is
        never taken for noise."""
        return np.where(np.asarray(x) < self.means[0], 0.0, self.posterior(x))

    def _log_odds(self, x: np.ndarray) -> np.ndarray:
        first, second = _log_densities(np.asarray(x, float), self.weights, self.means, self.sds)
        return second - first


def _log_densities(
    x: np.ndarray, weights: Iterable[float], means: Iterable[float], sds: Iterable[float]
) -> np.ndarray:
    """ln w_k N(x; m_k, s_k), (2, …), without the constant."""
    each = zip(weights, means, sds, strict=True)
    return np.stack([np.log(w) - np.log(s) - ((x - m) / s) ** 2 / 2 for w, m, s in each])


def two_gaussians(x: np.ndarray) -> Mixture | None:
    """The mixture of greatest likelihood of numbers (N,), by EM, or None where one component is left
    with less than one of them.

    EM starts from the quartiles, equal weights and the variance of all. It ends after 100 iterations,
    or once the mean log-likelihood rises by less than 1e-6. A variance is 5e-4 at least.

    >>> found = two_gaussians(np.concatenate([np.linspace(0, 1, 70), np.linspace(4, 5, 30)]))
    >>> [round(value, 2) for value in (*found.weights, *found.means)]
    [0.7, 0.3, 0.5, 4.5]
    """
    x = np.asarray(x, float)
    if len(x) < 2 or not np.isfinite(x).all():
        return None
    means = np.quantile(x, (0.25, 0.75))
    variances = np.full(2, max(x.var(), _FLOOR))
    weights = np.full(2, 0.5)
    before = -np.inf
    for _ in range(_ITERATIONS):
        logs = _log_densities(x, weights, means, np.sqrt(variances))
        total = np.logaddexp(*logs)
        shares = np.exp(logs - total)
        counts = shares.sum(1)
        if counts.min() < 1:
            return None
        weights = counts / len(x)
        means = shares @ x / counts
        spread = (shares * (x - means[:, None]) ** 2).sum(1) / counts
        variances = np.maximum(spread, _FLOOR)
        if total.mean() - before < _TOLERANCE:
            break
        before = total.mean()
    order = np.argsort(means, kind="stable")
    first, second = (tuple(map(float, values[order])) for values in (weights, means))
    low, high = map(float, np.sqrt(variances)[order])
    return Mixture(first, second, (low, high))  # type: ignore[arg-type]  # two of each


def noise_probabilities(losses: np.ndarray) -> np.ndarray | None:
    """The probability that each pair is noise (N,), by the mixture of the standardised losses (N,), or
    None where no two components are found."""
    spread = losses.std()
    if not spread:
        return None
    standardised = (losses - losses.mean()) / spread
    found = two_gaussians(standardised)
    return None if found is None else found.noise(standardised)


def fixed_batches(keys: Sequence[str], size: int, seed: int) -> list[np.ndarray]:
    """Batches of the places (N,) of all keys, shuffled by the seed and the keys, not by their order.

    All have `size` places, or N where there are fewer; the last is filled with those of the first.

    >>> [batch.tolist() for batch in fixed_batches(["c", "a", "b"], 2, seed=0)]
    [[1, 0], [2, 1]]
    """
    by_key = np.argsort(np.asarray(keys, dtype=object), kind="stable")
    order = by_key[generator(seed, "losses").permutation(len(by_key))]
    size = min(size, len(order))
    missing = -len(order) % size
    return np.split(np.concatenate([order, order[:missing]]), (len(order) + missing) // size)
