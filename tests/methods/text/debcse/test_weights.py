"""The weights of pairs and the weighted loss against loops and published values."""

import math

import pytest
import torch

from diptych.methods.families.sentences import anchored
from diptych.methods.text.debcse.weights import pair_weights, weighted_info_nce


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_published_losses():
    """Cosines .8 of the positive, .5 and .3 of negatives."""
    angle = [math.acos(c) for c in (0.8, 0.5, 0.3)]
    one = torch.tensor([[1.0, 0], *([math.cos(a), math.sin(a)] for a in angle)]).double()
    views = torch.stack([one, one.flip(0)])[:, :4]  # the first row is what is looked at
    for weight, expected in ((1.0, 0.002520972), (0.0, 4.53989e-05)):
        scores = [math.exp(20 * c) for c in (0.8, 0.5, 0.3)]
        total = scores[0] + weight * scores[1] + scores[2]
        assert -math.log(scores[0] / total) == pytest.approx(expected, abs=5e-9)
        weights = torch.eye(2).double()
        hard = torch.tensor([[weight, 1.0], [0.0, 0.0]]).double()
        found = weighted_info_nce(views, 20.0, weights, hard)
        # the second row has no negatives left, and a loss of 0
        assert 2 * found.item() == pytest.approx(expected, abs=5e-9)


def by_loops(views, scale, weights, hard):
    count = len(views)
    total = 0.0

    def e(one, other):
        return math.exp(scale * torch.cosine_similarity(one, other, dim=0))

    for i in range(count):
        own = e(views[i, 0], views[i, 1])
        below = own
        for j in range(count):
            if j != i:
                below += float(weights[i, j]) * e(views[i, 0], views[j, 1])
        for h in range(views.shape[1] - 2):
            below += float(hard[i, h]) * e(views[i, 0], views[i, 2 + h])
        total -= math.log(own / below) / count
    return total


@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_it_equals_loops(negatives):
    views = drawn(5, 2 + negatives, 4)
    weights = torch.rand(5, 5, dtype=torch.float64)
    weights[1, 3] = 0
    weights.fill_diagonal_(1)
    hard = torch.rand(5, negatives, dtype=torch.float64)
    found = weighted_info_nce(views, 10.0, weights, hard)
    assert found.item() == pytest.approx(by_loops(views, 10.0, weights, hard), abs=1e-10)
    small = views[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: weighted_info_nce(x, 3.0, weights[:3, :3], hard[:3]), small
    )


def test_weights_of_one_and_no_negatives_are_simcse():
    views = drawn(6, 2, 4)
    found = weighted_info_nce(views, 20.0, torch.ones(6, 6), torch.ones(6, 0))
    assert found.item() == pytest.approx(anchored(views, 20.0).item(), abs=1e-12)


def test_inverse_propensities_have_mean_one_over_the_pairs_that_count():
    kept = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])
    hard = torch.tensor([[True, False], [True, True], [False, False]])
    inverse = 1 + 9 * torch.rand(3, 5, dtype=torch.float64)
    weights, negatives = pair_weights(kept, hard, inverse)
    for i in range(3):
        counted = [("w", j) for j in range(3) if j != i and kept[i, j]]
        counted += [("h", k) for k in range(2) if hard[i, k]]
        mean = sum(float(inverse[i, at + 3 * (side == "h")]) for side, at in counted)
        mean = mean / len(counted) if counted else 1.0
        for j in range(3):
            expected = 1.0 if i == j else float(inverse[i, j]) / mean if kept[i, j] else 0.0
            assert weights[i, j].item() == pytest.approx(expected)
        for k in range(2):
            expected = float(inverse[i, 3 + k]) / mean if hard[i, k] else 0.0
            assert negatives[i, k].item() == pytest.approx(expected)


def test_masks_are_zero_and_one():
    kept = torch.tensor([[False, True], [False, False]])
    weights, hard = pair_weights(kept, torch.tensor([[True], [False]]))
    assert weights.tolist() == [[1, 1], [0, 1]]
    assert hard.tolist() == [[1], [0]]
