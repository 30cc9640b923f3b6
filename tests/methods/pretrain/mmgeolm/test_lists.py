"""Losses of lists against loops in float64 and published figures."""

import math

import pytest
import torch

from diptych.methods.pretrain.mmgeolm.lists import list_logits, list_loss


def reference(logits, there, form):
    """The loss by loops over samples and candidates."""
    total = 0.0
    for row, exists in zip(logits.tolist(), there.tolist(), strict=True):
        kept = [z for z, real in zip(row, exists, strict=True) if real]
        if form == "softmax":
            total += math.log(sum(math.exp(z) for z in kept)) - kept[0]
        else:
            total += math.log1p(math.exp(-kept[0]))
            total += sum(math.log1p(math.exp(z)) for z in kept[1:])
    return total / len(logits)


def random(count=4, n=6, seed=0):
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, n, dtype=torch.float64, generator=made)
    there = torch.rand(count, n, generator=made) < 0.6
    there[:, 0] = True
    return logits, there


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_losses_are_those_of_loops(form):
    logits, there = random()
    assert float(list_loss(logits, there, form=form)) == pytest.approx(
        reference(logits, there, form), abs=1e-12
    )
    assert float(list_loss(logits, form=form)) == pytest.approx(
        reference(logits, torch.ones_like(there), form), abs=1e-12
    )


def test_equal_logits_give_10_ln_2_and_ln_6_with_the_published_gradients():
    z = torch.zeros(1, 10, dtype=torch.float64, requires_grad=True)
    loss = list_loss(z, form="sigmoid")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(6.931472, abs=1e-6)
    assert z.grad is not None
    assert z.grad[0].tolist() == [-0.5] + [0.5] * 9
    z = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    loss = list_loss(z)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.791759, abs=1e-6)
    assert z.grad is not None
    assert z.grad[0].tolist() == pytest.approx([-5 / 6] + [1 / 6] * 5)


def test_three_cosines_give_the_published_losses():
    cosines = torch.tensor([[0.9, 0.5, 0.1]], dtype=torch.float64)
    anchor = torch.ones(1, 1, dtype=torch.float64)
    z = list_logits(anchor, cosines[..., None], 10.0, -5.0)
    assert z[0].tolist() == pytest.approx([4, 0, -4])
    assert float(list_loss(z, form="sigmoid")) == pytest.approx(0.729447, abs=1e-6)
    plain = list_logits(anchor, cosines[..., None], 10.0)
    assert float(list_loss(plain)) == pytest.approx(0.018479, abs=1e-6)
    assert float(list_loss(z)) == pytest.approx(float(list_loss(plain)))  # the bias cancels


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_no_term_joins_samples_and_the_order_of_negatives_does_not_matter(form):
    logits, there = random()
    logits.requires_grad_()
    loss = list_loss(logits, there, form=form)
    alone = [list_loss(logits[[at]], there[[at]], form=form) for at in range(len(logits))]
    assert float(loss.detach()) == pytest.approx(
        float(torch.stack(alone).mean().detach()), abs=1e-12
    )
    [gradient] = torch.autograd.grad(alone[1], logits)
    assert gradient[[0, 2, 3]].abs().max() == 0
    order = [0, 4, 2, 5, 1, 3]
    turned = list_loss(logits[:, order], there[:, order], form=form)
    assert float(turned.detach()) == pytest.approx(float(loss.detach()), abs=1e-12)


def test_without_negatives_softmax_is_0_and_sigmoid_the_positive_alone():
    z = torch.full((1, 1), 0.7, dtype=torch.float64, requires_grad=True)
    loss = list_loss(z)
    loss.backward()
    assert float(loss.detach()) == 0
    assert z.grad is not None
    assert float(z.grad) == 0
    alone = list_loss(z.detach(), form="sigmoid")
    assert float(alone) == pytest.approx(math.log1p(math.exp(-0.7)))


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_gradients_are_those_of_differences(form):
    made = torch.Generator().manual_seed(1)
    like = {"dtype": torch.float64, "generator": made}
    anchor = torch.randn(2, 3, **like).requires_grad_()
    candidates = torch.randn(2, 4, 3, **like).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    there = torch.tensor([[True, True, False, True], [True, False, False, True]])

    def loss(*given):
        return list_loss(list_logits(*given), there, form=form)

    assert torch.autograd.gradcheck(loss, (anchor, candidates, scale, bias))
