"""Routing and grouped texts: the published figures, loops, gradients, and what must not change
anything."""

import math

import pytest
import torch
from torch.nn import functional as F

from diptych.errors import InputError
from diptych.methods.adapt.mocoop.routing import gate_loss, gate_target, grouped_texts

Q = torch.tensor([[0.30, 0.20, 0.28, 0.10]], dtype=torch.float64)
R = torch.tensor([[0.2, 1.0, -0.5, 0.6]], dtype=torch.float64)


def draw(*shape, seed=0, norm=True):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=-1) if norm else x


def test_the_sheets_target_and_its_cross_entropy():
    target = gate_target(Q)
    assert target[0].tolist() == pytest.approx([0.504980, 2.0744e-5, 0.494981, 1.8770e-5], abs=1e-6)
    assert gate_loss(R, Q).item() == pytest.approx(1.997800, abs=1e-6)
    entropy = -(target * target.log()).sum().item()
    assert entropy == pytest.approx(0.693537, abs=1e-6)
    assert gate_loss(target.log(), Q).item() == pytest.approx(
        entropy, abs=1e-12
    )  # the least there is
    assert gate_target(Q, bump=0.0)[0].tolist() == pytest.approx(
        [0.269995, 0.244302, 0.264649, 0.221054], abs=1e-6
    )
    assert gate_loss(R, Q, bump=0.0).item() == pytest.approx(1.552729, abs=1e-6)


def test_the_sheets_floor_of_the_text_loss():
    p = torch.eye(4, dtype=torch.float64)[None]
    assert grouped_texts(p, p).item() == pytest.approx(math.log(math.e + 3) - 1, abs=1e-12)
    assert grouped_texts(p, p).item() == pytest.approx(0.743668, abs=1e-6)
    assert grouped_texts(p, p, 0.01).item() == pytest.approx(0.0, abs=1e-12)
    away = F.normalize(p - p.mean(1, keepdim=True), dim=-1)
    assert grouped_texts(away, p).item() == pytest.approx(0.665496, abs=1e-6)
    assert grouped_texts(torch.zeros_like(p), p).item() == pytest.approx(math.log(4), abs=1e-12)


def test_a_text_at_its_prototype_is_not_at_rest():
    p = F.normalize(
        torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]], dtype=torch.float64), dim=-1
    )
    assert grouped_texts(p, p).item() == pytest.approx(0.802107, abs=1e-6)
    angles = torch.linspace(-math.pi, math.pi, 20001, dtype=torch.float64)
    cosines = torch.stack([angles.cos(), angles.sin()], 1) @ p[0].T
    least = (cosines.logsumexp(1)[:, None] - cosines).amin(0).mean().item()
    assert least == pytest.approx(0.667624, abs=1e-6)


@pytest.mark.parametrize("temperature", [None, 0.07])
def test_losses_are_those_of_loops(temperature):
    t, p, scores, near = (
        draw(3, 4, 5),
        draw(3, 4, 5, seed=1),
        draw(6, 3, norm=False),
        draw(6, 3, seed=2, norm=False),
    )
    total = 0.0
    for g in range(3):
        for c in range(4):
            logits = [float(t[g, c] @ p[g, other]) / (temperature or 1) for other in range(4)]
            total += math.log(sum(math.exp(value) for value in logits)) - logits[c]
    assert grouped_texts(t, p, temperature).item() == pytest.approx(total / 12, abs=1e-9)
    total = 0.0
    for b in range(6):
        q = near[b].tolist()
        for g in sorted(range(3), key=lambda g: -q[g])[:2]:
            q[g] += 10
        sums = (
            sum(math.exp(value) for value in q),
            sum(math.exp(value) for value in scores[b].tolist()),
        )
        total -= sum(
            math.exp(q[g]) / sums[0] * (scores[b, g].item() - math.log(sums[1])) for g in range(3)
        )
    assert gate_loss(scores, near).item() == pytest.approx(total / 6, abs=1e-9)


def test_gradients_are_right_and_none_reaches_the_target():
    t, p = draw(2, 3, 4).requires_grad_(), draw(2, 3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda t: grouped_texts(t, p, 0.5), t, fast_mode=True)
    scores, near = draw(4, 3, norm=False).requires_grad_(), draw(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda scores: gate_loss(scores, near.detach()), scores)
    gate_loss(scores, near).backward()
    assert near.grad is None
    assert scores.grad is not None


def test_the_order_of_groups_and_of_classes_changes_nothing():
    t, p, scores, near = (
        draw(3, 4, 5),
        draw(3, 4, 5, seed=1),
        draw(6, 3, norm=False),
        draw(6, 3, seed=2),
    )
    groups, classes = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    turned = grouped_texts(t[groups][:, classes], p[groups][:, classes])
    torch.testing.assert_close(turned, grouped_texts(t, p))
    torch.testing.assert_close(
        gate_loss(scores[:, groups], near[:, groups]), gate_loss(scores, near)
    )


def test_another_group_is_no_class():
    """Prototypes softmax inside a group: equal ones in another group cost nothing."""
    p = torch.eye(3, dtype=torch.float64)
    once, twice = (
        grouped_texts(p[None], p[None], 0.1),
        grouped_texts(p.expand(2, 3, 3), p.expand(2, 3, 3), 0.1),
    )
    torch.testing.assert_close(once, twice)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"must be \(G, C, D\)"):
        grouped_texts(draw(2, 3, 4), draw(2, 4, 4))
    with pytest.raises(InputError, match=r"must be \(B, G\)"):
        gate_loss(draw(2, 3), draw(2, 4))
