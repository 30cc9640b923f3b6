"""Ridge regression on frozen features, for labels and maps with real values.

Dimensions: N samples, D width.
"""

from collections.abc import Sequence

import numpy as np

from diptych.linear import hold_out
from diptych.metrics import lab

ALPHAS = tuple(10.0**power for power in range(-2, 6))
"""The values of alpha that are tried."""


def ridge(
    features: np.ndarray,
    targets: np.ndarray,
    test_features: np.ndarray,
    test_targets: np.ndarray,
    *,
    owners: np.ndarray | None = None,
    seed: int = 0,
    alphas: Sequence[float] = ALPHAS,
) -> dict[str, float]:
    """Return `rmse`, `r2`, `mae` and the chosen `alpha` of a ridge regression on standardised
    features (N, D), targets (N,).

        r2 = 1 - sum (y - y')² / sum (y - mean y)²

    alpha is the one of `alphas` with the smallest error on a held-out fifth (`owners` are those of
    `hold_out`), the smallest of equal ones; then all samples are fitted. Chance predicts the mean
    of `targets`. r2 is 0 if the test targets are all equal.

    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> round(ridge(x, 3 * x[:, 0] + 1, x, 3 * x[:, 0] + 1)["r2"], 3)
    1.0
    """
    with lab("a regression probe"):
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

    def predicted(x: np.ndarray, y: np.ndarray, test: np.ndarray, alpha: float) -> np.ndarray:
        return make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x, y).predict(test)

    fit, aside = hold_out(len(targets), seed, owners)
    x = features[fit]
    y = targets[fit]
    aside_x = features[aside]
    aside_y = targets[aside]
    alpha = min(
        alphas, key=lambda value: float(((predicted(x, y, aside_x, value) - aside_y) ** 2).mean())
    )
    found = errors(test_targets, predicted(features, targets, test_features, alpha))
    constant = errors(test_targets, np.full(len(test_targets), targets.mean()))
    return found | {f"chance_{name}": value for name, value in constant.items()} | {"alpha": alpha}


def errors(targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return root mean square error, mean absolute error and R² of predictions (N,)."""
    with lab("a regression probe"):
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
    return {
        "rmse": float(root_mean_squared_error(targets, predicted)),
        "mae": float(mean_absolute_error(targets, predicted)),
        "r2": float(r2_score(targets, predicted)) if np.ptp(targets) else 0.0,
    }
