"""The losses of the catalogue: figures worked out by hand, slow references in float64, gradients."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from diptych.methods.families.sentences import anchored
from diptych.methods.text.nlp_primer.losses import (
    binary_nce,
    information_bound,
    momentum_contrast,
    ranking_nce,
    residual_energy,
    triplet,
)
from diptych.methods.text.simcse import triples
from diptych.objectives import nt_xent, supervised

SCORES = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)


def vectors(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def unit(*rows):
    return normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


def near(value, expected, tolerance=1e-8):
    assert float(value) == pytest.approx(expected, abs=tolerance)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_published_figures():
    noise = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    near(ranking_nce(SCORES), 0.407605964)
    near(ranking_nce(torch.zeros(2, 5, dtype=torch.float64)), math.log(5))
    near(binary_nce(SCORES, noise), 3.087535104)
    near(binary_nce(SCORES), 2.133336879)
    near(residual_energy(torch.tensor([1.0]).double(), torch.tensor([-1.0]).double()), 2.626523375)
    near(residual_energy(torch.tensor([-2.0]).double(), torch.tensor([2.0]).double()), 0.253856022)
    a, p = torch.eye(2, dtype=torch.float64), unit([1, 0.5], [0.2, 1])
    near(momentum_contrast(a, p, unit([1, 1], [-1, 0], [0, -1]), 0.07), 0.043240502)
    near(nt_xent(a, p, 0.1), 0.025255968)
    n = unit([1, 1], [1, 0.2])
    near(triples(torch.stack([a, p, n], 1), 20.0), 0.947561853)
    near(anchored(torch.stack([a, p], 1), 20.0), 1.20766e-5, 1e-9)


def test_supcon_is_a_mean_over_anchors_that_have_a_positive():
    z = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1]], dtype=torch.float64)
    labels = [0, 0, 1]
    found = []
    for i in range(3):
        others = [j for j in range(3) if j != i]
        normaliser = math.log(sum(math.exp(2 * float(z[i] @ z[j])) for j in others))
        own = [j for j in others if labels[j] == labels[i]]
        if own:
            found.append(sum(normaliser - 2 * float(z[i] @ z[j]) for j in own) / len(own))
    assert found == pytest.approx([0.183900741, 0.513015252], abs=1e-9)
    near(np.mean(found), 0.348457997)
    near(supervised(z[None], torch.tensor(labels), 0.5), np.mean(found))


@pytest.mark.parametrize("corrected", [True, False])
def test_binary_nce_by_loops(corrected):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    noise = torch.rand(4, 6, dtype=torch.float64, generator=generator).log()
    total = 0.0
    for row in range(4):
        for column in range(6):
            delta = float(scores[row, column])
            if corrected:
                delta -= math.log(5 * math.exp(float(noise[row, column])))
            total -= math.log(sigmoid(delta if column == 0 else -delta))
    near(binary_nce(scores, noise if corrected else None), total / 4)


def test_the_queue_competes_and_other_keys_do_not():
    q, k, queue = vectors(5, 4), vectors(5, 4, seed=1), vectors(7, 4, seed=2)
    total = 0.0
    for i in range(5):
        logits = [float(q[i] @ k[i]) / 0.1] + [float(q[i] @ row) / 0.1 for row in queue]
        total += math.log(sum(map(math.exp, logits))) - logits[0]
    near(momentum_contrast(q, k, queue, 0.1), total / 5)


def test_triplet_by_loops():
    near(triplet(unit([1, 0]), unit([0.9, 0.19**0.5]), unit([0.7, 0.51**0.5])), 0.8)
    a, p, n = (vectors(6, 3, seed=seed) for seed in range(3))
    each = [max(0.0, 0.4 - float(a[i] @ p[i]) + float(a[i] @ n[i])) for i in range(6)]
    near(triplet(a, p, n, 0.4), sum(each) / 6)
    assert 0 in each
    assert any(each)


def test_the_bound_of_a_perfect_ranking_is_the_logarithm_of_the_choices():
    assert information_bound(0.0, 7) == pytest.approx(math.log(8))


def test_gradients():
    q, k = vectors(3, 4).requires_grad_(), vectors(3, 4, seed=1).requires_grad_()
    queue = vectors(4, 4, seed=2)
    assert torch.autograd.gradcheck(lambda q, k: momentum_contrast(q, k, queue, 0.5), (q, k))
    assert torch.autograd.gradcheck(lambda q, k: triplet(q, k, queue[:3], 2.0), (q, k))
    assert torch.autograd.gradcheck(lambda s: binary_nce(s, queue[:3]), (q,))
    assert torch.autograd.gradcheck(ranking_nce, (q,))
    assert torch.autograd.gradcheck(residual_energy, (q[:, 0], k[:, 0]))
