"""Groups of classes: published sizes, which classes are grouped, clusters where they are clear."""

import sys

import numpy as np
import pytest
import torch

from diptych.errors import InputError
from diptych.methods.adapt.proapo import groups as grouping
from diptych.methods.adapt.proapo.groups import (
    clusters,
    confused_groups,
    group_size,
    max_confused,
    require_scikit_learn,
    salient_groups,
)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("classes", "total", "size"), [(47, 38, 9), (200, 52, 13), (10, 10, 5), (2, 2, 2), (1, 0, 2)]
)
def test_sizes_are_as_published(classes, total, size):
    assert max_confused(classes) == total
    assert group_size(classes) == size


def test_salient_classes_are_in_the_order_of_their_gain():
    fitness = np.array([5.0, 9.0, 1.0, 7.0, 6.09, 8.0, 2.0, 6.1, 6.5, 6.3, 6.2, 6.2])
    assert [group.tolist() for group in salient_groups(fitness, 6.0)] == [
        [1, 5, 3, 8, 9, 10],
        [11, 7],
    ]
    assert [group.tolist() for group in salient_groups(fitness, 100.0)] == [[1, 5]]


def test_the_class_of_the_highest_loss_opens_the_first_group_by_its_label(monkeypatch):
    """Labels are not in the order of their loss, so a position in a sorted list would be another
    class."""
    monkeypatch.setattr(grouping, "group_size", lambda classes: 3)
    monkeypatch.setattr(
        grouping, "clusters", lambda classes, rng: np.array([0, 0, 1, 1, 0, 1, 1, 1])
    )
    labels = np.array([6, 2, 4, 0])
    logits = torch.full((4, 8), -9.0)
    logits[0, [6, 1, 3, 5, 7]] = torch.tensor([5.0, 1, 1, 1, 1])
    logits[1, [5, 7, 3, 0, 1]] = torch.tensor(
        [9.0, 8, 3, 2, 1]
    )  # class 2 is not in its own top five
    logits[2, [4, 0, 1, 5, 6]] = torch.tensor([3.0, 2.9, 2.8, 1, 0])
    logits[3, [0, 4, 1, 5, 6]] = torch.tensor([3.0, 1.0, 0.5, 0.2, 0.1])
    classes = torch.nn.functional.normalize(
        torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=1
    )
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
    assert first.tolist() == [
        0,
        1,
        2,
        9,
        10,
        3,
        4,
    ]  # confused classes, the most similar first; then its cluster


def blobs(sizes):
    """Points (C, E) around far centres, and the number of each point's centre (C,)."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = 100 * np.eye(len(sizes))
    return centres[labels] + rng().standard_normal((len(labels), len(sizes))), labels


@pytest.mark.parametrize("sizes", [[12] * 7, [9, 12, 7, 20, 11], [5, 5], [1, 6]])
@pytest.mark.parametrize("seed", range(3))
def test_clear_clusters_and_their_number_are_found_whatever_the_seed(sizes, seed):
    points, labels = blobs(sizes)
    found = clusters(points, rng(seed))
    assert np.array_equal(found[:, None] == found, labels[:, None] == labels)


def test_the_number_of_clusters_is_two_below_25_classes_and_odd_above():
    points = rng().standard_normal((24, 6))
    assert len(np.unique(clusters(points, rng()))) == 2
    points = rng().standard_normal((60, 6))
    assert len(np.unique(clusters(points, rng()))) in {5, 7, 9, 11}


@pytest.mark.parametrize("points", [np.eye(1), np.eye(2), np.ones((6, 3)), np.ones((40, 3))])
def test_one_class_two_classes_and_equal_embeddings_are_one_cluster(points):
    assert clusters(points, rng()).tolist() == [0] * len(points)


def test_there_may_be_fewer_different_embeddings_than_clusters():
    labels = np.arange(40) % 5
    found = clusters(np.eye(5)[labels], rng())
    assert np.array_equal(found[:, None] == found, labels[:, None] == labels)


def test_missing_scikit_learn_is_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    for call in (require_scikit_learn, lambda: clusters(np.eye(8), rng())):
        with pytest.raises(
            InputError, match=r"needs scikit-learn; install it with: pip install 'diptych\[lab\]'"
        ):
            call()
