"""Groups of classes: published sizes, which classes are grouped, clusters where they are clear."""

import numpy as np
import pytest
import torch

from diptych.methods.adapt.proapo import groups as grouping
from diptych.methods.adapt.proapo.groups import (
    clusters,
    confused_groups,
    group_size,
    k_means,
    max_confused,
    salient_groups,
    silhouette,
)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("classes", "total", "size"), [(47, 38, 9), (200, 52, 13), (10, 10, 5), (2, 2, 2), (1, 0, 2)])
def test_sizes_are_as_published(classes, total, size):
    assert max_confused(classes) == total
    assert group_size(classes) == size


def test_salient_classes_are_in_the_order_of_their_gain():
    fitness = np.array([5.0, 9.0, 1.0, 7.0, 6.09, 8.0, 2.0, 6.1, 6.5, 6.3, 6.2, 6.2])
    assert [group.tolist() for group in salient_groups(fitness, 6.0)] == [[1, 5, 3, 8, 9, 10], [11, 7]]
    assert [group.tolist() for group in salient_groups(fitness, 100.0)] == [[1, 5]]


def test_the_class_of_the_highest_loss_opens_the_first_group_by_its_label(monkeypatch):
    """Labels are not in the order of their loss, so a position in a sorted list would be another class."""
    monkeypatch.setattr(grouping, "group_size", lambda classes: 3)
    monkeypatch.setattr(grouping, "clusters", lambda classes, rng: np.array([0, 0, 1, 1, 0, 1, 1, 1]))
    labels = np.array([6, 2, 4, 0])
    logits = torch.full((4, 8), -9.0)
    logits[0, [6, 1, 3, 5, 7]] = torch.tensor([5.0, 1, 1, 1, 1])
    logits[1, [5, 7, 3, 0, 1]] = torch.tensor([9.0, 8, 3, 2, 1])  # class 2 is not in its own top five
    logits[2, [4, 0, 1, 5, 6]] = torch.tensor([3.0, 2.9, 2.8, 1, 0])
    logits[3, [0, 4, 1, 5, 6]] = torch.tensor([3.0, 1.0, 0.5, 0.2, 0.1])
    classes = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    excluded = np.zeros(8, bool)
    excluded[7] = True
    groups = confused_groups(logits, labels, classes, excluded, rng())
    assert groups[0][0] == 2
    assert set(groups[0][1:].tolist()) < {5, 3, 0, 1}
    assert not any(7 in group for group in groups)
    together = np.concatenate(groups)
    assert len(set(together.tolist())) == len(together) <= max_confused(8)
    assert groups[1][0] == 4


def test_a_group_is_filled_with_neighbours_of_its_cluster(monkeypatch):
    monkeypatch.setattr(grouping, "group_size", lambda classes: 7)
    monkeypatch.setattr(grouping, "clusters", lambda classes, rng: np.array([0] * 8 + [1] * 4))
    logits = torch.full((1, 12), -9.0)
    logits[0, [0, 9, 10, 1, 2]] = torch.tensor([1.0, 2, 3, 4, 5])
    angles = torch.arange(12) * 0.1
    classes = torch.stack([angles.cos(), angles.sin()], 1)
    first, *_ = confused_groups(logits, np.array([0]), classes, np.zeros(12, bool), rng())
    assert first.tolist() == [0, 1, 2, 9, 10, 3, 4]  # confused classes, the most similar first; then its cluster


def blobs(counts, seed=0):
    draw = rng(seed)
    centres = 8 * draw.standard_normal((len(counts), 5))
    return np.concatenate([centre + draw.standard_normal((n, 5)) for centre, n in zip(centres, counts, strict=True)])


@pytest.mark.parametrize("labels", ["true", "random", "alone"])
def test_silhouettes_are_scikit_learns(labels):
    metrics = pytest.importorskip("sklearn.metrics")
    x = blobs([7, 9, 4])
    given = {"true": np.repeat([0, 1, 2], [7, 9, 4]), "random": rng(1).integers(0, 4, 20), "alone": np.arange(20) // 19}
    assert silhouette(x, given[labels]) == pytest.approx(metrics.silhouette_score(x, given[labels]))


def test_clusters_are_scikit_learns_where_they_are_clear():
    cluster = pytest.importorskip("sklearn.cluster")
    metrics = pytest.importorskip("sklearn.metrics")
    x = blobs([7, 9, 4, 6])
    theirs = cluster.KMeans(4, n_init=10, random_state=0).fit_predict(x)
    assert metrics.adjusted_rand_score(theirs, k_means(x, 4, rng())) == 1


def test_the_number_of_clusters_is_that_of_the_best_silhouette():
    assert len(np.unique(clusters(blobs([12] * 7), rng()))) == 7  # of 5, 7, …, 15
    assert len(np.unique(clusters(blobs([5, 5]), rng()))) == 2
    assert clusters(blobs([1, 1]), rng()).tolist() == [0, 0]


def test_points_that_are_all_one_make_no_trouble():
    assert k_means(np.ones((6, 3)), 3, rng()).shape == (6,)
    assert silhouette(np.ones((6, 3)), np.zeros(6, int)) == -1
