"""The inverted contrast: published figures, a slow reference, and what it must not depend on."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from diptych.methods.robust.c_pgc.contrast import (
    farthest,
    inverted_contrast,
    log_mean,
    own_similarities,
)

IMAGES = torch.eye(2, dtype=torch.float64)
TEXTS = normalize(torch.tensor([[1.0, 0.1], [0.2, 1.0]], dtype=torch.float64), dim=1)[:, None]
TARGETS = torch.tensor([[[-1.0, 0.0]], [[0.0, -1.0]]], dtype=torch.float64)


def loss(vectors, chosen):
    own = own_similarities(vectors, TEXTS)
    return float(inverted_contrast(own, own_similarities(vectors, TARGETS[chosen]), 0.1))


def test_two_images_have_the_published_losses():
    chosen = farthest(IMAGES, TARGETS)
    assert chosen.tolist() == [0, 1]
    assert loss(IMAGES, chosen) == pytest.approx(-2.3223e-9, rel=1e-4)
    assert loss(-IMAGES, chosen) == pytest.approx(-19.875479, abs=1e-6)


def test_equal_similarities_count_partners():
    equal = torch.full((3, 5), 0.4, dtype=torch.float64)
    assert float(inverted_contrast(equal, equal, 0.1)) == pytest.approx(-math.log(2))
    assert float(inverted_contrast(equal, equal[:, :1], 0.1)) == pytest.approx(-0.182321557)


def test_the_means_are_taken_before_the_logarithm():
    own, far = torch.rand(4, 5, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    p = sum(math.exp(value / 0.1) for row in own.tolist() for value in row) / 4
    q = sum(math.exp(value / 0.1) for row in far.tolist() for value in row) / 4
    assert float(inverted_contrast(own, far, 0.1)) == pytest.approx(math.log(p / (p + q)))
    assert float(log_mean(own, 0.1)) == pytest.approx(math.log(p))


def test_no_similarity_is_too_large_for_single_precision():
    own = torch.full((2, 1), 1.0, requires_grad=True)
    found = inverted_contrast(own, torch.full((2, 1), -1.0), 0.001)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(own.grad).all()
    lost = inverted_contrast(-own.detach(), torch.full((2, 1), 1.0), 0.001)
    assert float(lost) == pytest.approx(-2000)


def test_gradients_are_right():
    own = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    far = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: inverted_contrast(a, b, 0.1), (own, far))


def test_a_target_is_farthest_by_the_mean_of_its_texts():
    vectors = torch.tensor([[1.0, 0.0]])
    targets = torch.tensor([[[-1.0, 0.0], [1.0, 0.0]], [[-0.1, 0.0], [-0.1, 0.0]]])
    assert farthest(vectors, targets).tolist() == [1]
