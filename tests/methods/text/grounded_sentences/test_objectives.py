"""The hinge of a batch and the diversity of heads: published figures, loops, gradients."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from diptych.methods.text.grounded_sentences.objectives import batch_hinge, distances, diversity

IMAGES = normalize(torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64), dim=1)
TEXTS = normalize(torch.tensor([[1, 0.2], [0.3, 1], [1, 0.5]], dtype=torch.float64), dim=1)


def loops(images, texts, margin):
    """The sum over both directions, pair by pair."""
    S = [[sum(a * b for a, b in zip(x, c, strict=True)) for c in texts] for x in images]
    total = 0.0
    for i in range(len(S)):
        for j in range(len(S)):
            if i != j:
                total += max(0.0, margin + S[i][j] - S[j][j]) + max(0.0, margin + S[i][j] - S[i][i])
    return total


def test_the_published_example():
    for reduction, expected in (
        ("b2", 0.072095516),
        ("sum", 0.648859640),
        ("offdiag", 0.108143273),
    ):
        found = batch_hinge(IMAGES, TEXTS, 0.2, reduction=reduction)
        assert float(found) == pytest.approx(expected, abs=1e-9)
    assert loops(IMAGES.tolist(), TEXTS.tolist(), 0.2) == pytest.approx(0.648859640, abs=1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
def test_it_is_that_of_loops(margin):
    images, texts = normalize(torch.randn(2, 7, 5, dtype=torch.float64), dim=-1)
    expected = loops(images.tolist(), texts.tolist(), margin) / 49
    assert float(batch_hinge(images, texts, margin)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("B", [2, 4, 9])
def test_equal_vectors_have_the_loss_of_collapse_and_perfect_matches_none(B):
    one = normalize(torch.ones(B, 3, dtype=torch.float64), dim=1)
    assert float(batch_hinge(one, one, 0.2)) == pytest.approx(2 * 0.2 * (B - 1) / B)
    eye = torch.eye(B, dtype=torch.float64)
    assert float(batch_hinge(eye, eye, 0.2)) == 0


def test_a_single_pair_has_no_negative():
    one = torch.ones(1, 2, dtype=torch.float64) / math.sqrt(2)
    for reduction in ("b2", "sum", "offdiag"):
        assert float(batch_hinge(one, one, reduction=reduction)) == 0


def test_images_and_texts_can_be_exchanged():
    images, texts = normalize(torch.randn(2, 6, 4, dtype=torch.float64), dim=-1)
    for hardest in (False, True):
        torch.testing.assert_close(
            batch_hinge(images, texts, hardest=hardest), batch_hinge(texts, images, hardest=hardest)
        )


def test_the_hardest_negatives_are_the_largest_terms_of_each_row_and_column():
    images, texts = normalize(torch.randn(2, 6, 4, dtype=torch.float64), dim=-1)
    S = (images @ texts.T).tolist()
    of_text = [max(max(0, 0.2 + S[i][j] - S[j][j]) for i in range(6) if i != j) for j in range(6)]
    of_image = [max(max(0, 0.2 + S[i][j] - S[i][i]) for j in range(6) if i != j) for i in range(6)]
    found = batch_hinge(images, texts, 0.2, reduction="sum", hardest=True)
    assert float(found) == pytest.approx(sum(of_text) + sum(of_image))
    assert float(found) < float(batch_hinge(images, texts, 0.2, reduction="sum"))


def test_gradients_are_those_of_differences():
    torch.manual_seed(1)  # no term is at its kink
    images, texts = normalize(torch.randn(2, 4, 3, dtype=torch.float64), dim=-1)
    assert torch.autograd.gradcheck(batch_hinge, (images.requires_grad_(), texts.requires_grad_()))


def test_identical_heads_lose_three_for_each_pair():
    for K in (2, 3):
        matrix = torch.randn(4, 6, dtype=torch.float64)
        weights = torch.rand(5, 1, 7, 6, dtype=torch.float64).softmax(2).repeat(1, K, 1, 1)
        vectors = torch.randn(5, 6, dtype=torch.float64).repeat(1, K)
        found = diversity([matrix] * K, distances(weights), vectors)
        assert float(found) == pytest.approx(3 * math.comb(K, 2))


def norm(a, b):
    flat = zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)
    return math.sqrt(sum((x - y) ** 2 for x, y in flat))


@pytest.mark.parametrize("first", [False, True])
def test_diversity_is_that_of_loops(first):
    torch.manual_seed(0)
    K, B, C = 3, 4, 2
    matrices = [0.1 * torch.randn(3, C, dtype=torch.float64) for _ in range(K)]
    weights = torch.rand(B, K, 5, C, dtype=torch.float64).softmax(2)
    vectors = normalize(torch.randn(B, K * C, dtype=torch.float64), dim=1)
    expected = 0.0
    for p in range(K):
        for q in range(p + 1, K):
            rows = [0] if first else range(B)
            apart = [max(0.0, 1 - norm(weights[n, p], weights[n, q])) for n in rows]
            expected += max(0.0, 1 - norm(matrices[p], matrices[q])) + sum(apart) / len(apart)
            slices = [vectors[:, at * C : (at + 1) * C] for at in (p, q)]
            expected += max(0.0, 1 - norm(*slices))
    found = diversity(matrices, distances(weights), vectors, first=first)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_identical_heads_have_a_finite_gradient():
    weights = torch.rand(2, 1, 3, 4).softmax(2).repeat(1, 2, 1, 1).requires_grad_()
    matrix = torch.randn(3, 4, requires_grad=True)
    diversity([matrix, matrix * 1], distances(weights), torch.randn(2, 8)).backward()
    assert bool(torch.isfinite(weights.grad).all())
    assert bool(torch.isfinite(matrix.grad).all())
