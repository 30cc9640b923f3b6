"""k-means, by scikit-learn.

Dimensions: N points, E width, K clusters.
"""

import warnings
from functools import partial

import numpy as np

from diptych.errors import InputError
from diptych.metrics import lab

RESTARTS = 10
"""The best of so many fits is taken, by default."""
WHOLE = 1_000_000
"""More points are seen in batches of so many."""


def ready(count: int, clusters: int, who: str) -> None:
    """Raise InputError where there are fewer points than clusters, or scikit-learn is missing; called
    before long work that needs `k_means`."""
    with lab(who):
        import sklearn.cluster  # noqa: F401
    if count < clusters:
        raise InputError(
            f"{who} makes {clusters} clusters of {count} points; ask for fewer clusters, or give more data"
        )


def k_means(
    points: np.ndarray,
    clusters: int,
    seed: int,
    *,
    restarts: int = RESTARTS,
    iterations: int = 300,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster (N,) of each point (N, E), and the centroids (K, E), of the best of `restarts`
    fits of at most `iterations` steps.

    The same seed gives the same clusters. Where fewer than K points differ, some clusters are empty.
    Raises InputError as `ready` does.

    >>> points = np.array([[0.0], [0.1], [5.0]])
    >>> labels, centroids = k_means(points, 2, seed=0)
    >>> bool(labels[0] == labels[1] != labels[2]), sorted(centroids.flatten().round(2).tolist())
    (True, [0.05, 5.0])
    """
    ready(len(points), clusters, "k-means")
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    kind = KMeans if len(points) <= WHOLE else partial(MiniBatchKMeans, batch_size=WHOLE)
    how = {"n_init": restarts, "max_iter": iterations, "random_state": seed}
    fit = kind(clusters, **how)  # type: ignore[arg-type]  # n_init is int or "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters
        labels = fit.fit_predict(points)
    return labels.astype(np.int64), np.asarray(fit.cluster_centers_)
