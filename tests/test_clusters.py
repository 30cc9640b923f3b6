"""k-means: each point is in the cluster of its nearest centroid, by a seed, in one piece or in batches."""

import numpy as np
import pytest

from diptych import clusters
from diptych.clusters import k_means
from diptych.errors import InputError


def blobs(count=120):
    """Points around four corners."""
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 4, count)
    return corner, 10 * np.stack([corner // 2, corner % 2], 1) + rng.normal(size=(count, 2))


@pytest.mark.parametrize("whole", [1_000_000, 40])
def test_points_are_in_the_cluster_of_the_nearest_centroid(whole, monkeypatch):
    monkeypatch.setattr(clusters, "WHOLE", whole)
    corner, points = blobs()
    labels, centroids = k_means(points, 4, seed=3)
    for point, label in zip(points, labels, strict=True):
        assert label == min(range(4), key=lambda at: np.square(point - centroids[at]).sum())
    assert len(set(zip(corner.tolist(), labels.tolist(), strict=True))) == 4
    again, _ = k_means(points, 4, seed=3)
    assert (again == labels).all()
    assert labels.dtype == np.int64


def test_equal_points_leave_clusters_empty():
    labels, centroids = k_means(np.ones((6, 2)), 3, seed=0)
    assert len(set(labels.tolist())) == 1
    assert centroids.shape == (3, 2)


def test_fewer_points_than_clusters_are_refused():
    with pytest.raises(InputError, match="3 clusters of 2 points; ask for fewer"):
        k_means(np.zeros((2, 2)), 3, seed=0)


def test_fits_and_their_steps_can_be_limited():
    corner, points = blobs()
    labels, _ = k_means(points, 4, seed=3, restarts=5, iterations=100)
    assert len(set(zip(corner.tolist(), labels.tolist(), strict=True))) == 4
    _, once = k_means(points, 7, seed=0, restarts=1, iterations=1)
    _, best = k_means(points, 7, seed=0)

    def inertia(centroids):
        return np.square(points[:, None] - centroids).sum(-1).min(1).sum()

    assert inertia(best) < inertia(once)
