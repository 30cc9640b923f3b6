"""Negatives drawn by similarity, and the loss of matching."""

import math
from collections import Counter

import pytest
import torch

from diptych.objectives.matching import draw_negatives, match_loss


def test_matching_of_a_constant_head():
    assert float(match_loss(torch.zeros(4, 3, 2))[0]) == pytest.approx(math.log(2))
    logits = torch.zeros(2, requires_grad=True)
    with torch.no_grad():
        logits.copy_(torch.tensor([2 / 3, 1 / 3]).log())
    loss = match_loss(logits.expand(5, 3, 2))[0]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.636514, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6  # the least


def test_negatives_follow_the_similarities():
    logits = torch.tensor([[9.0, 2.0, 1.0, 0.0]]).expand(4, -1)
    own = torch.eye(4, dtype=torch.bool)
    drawn = torch.Generator().manual_seed(0)
    found = Counter(int(draw_negatives(logits, own, drawn)[0]) for _ in range(4000))
    assert found[0] == 0
    shares = torch.tensor([found[j] / 4000 for j in (1, 2, 3)])
    weights = logits[0].softmax(0)[1:] + 1e-4
    assert torch.allclose(shares, weights / weights.sum(), atol=0.03)
