"""Losses in a training loop of one's own: as modules, compiled, and under DDP."""

import pytest
import torch
from tests.factories import det
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from diptych.collectives import gather, rank, world_size
from diptych.errors import InputError
from diptych.objectives import Objective, dcl, info_nce, sigmoid_pairs
from diptych.towers.nn.parts import Temperature


def softmax_loss() -> Objective:
    return Objective(info_nce, scale=Temperature(5.0), smoothing=0.1)


def sigmoid_loss() -> Objective:
    return Objective(sigmoid_pairs, scale=Temperature(5.0), bias=nn.Parameter(torch.tensor(-3.0)))


LOSSES = [softmax_loss, sigmoid_loss]


class Towers(nn.Module):
    """Two linear towers of unit vectors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Linear(6, 4)
        self.text = nn.Linear(5, 4)

    def forward(self, image, text):
        return normalize(self.image(image), dim=1), normalize(self.text(text), dim=1)


def data(count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    return det(count, 6, 0).float(), det(count, 5, 1).float()


def gradients(*modules: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for module in modules for p in module.parameters()]


def test_a_module_is_its_function_with_learned_settings():
    x = det(6, 4, 0)
    y = det(6, 4, 1)
    loss = sigmoid_loss().double()
    assert torch.equal(loss(x, y), sigmoid_pairs(x, y, loss.scale(), loss.bias))
    assert {name for name, _ in loss.named_parameters()} == {"scale.value", "bias"}
    assert torch.equal(Objective(dcl, tau=0.5)(x, y), dcl(x, y, 0.5))
    targets = torch.tensor([1, 0, 2, 3, 4, 5])
    smooth = softmax_loss().double()
    assert torch.equal(
        smooth(x, y, targets=targets),
        info_nce(x, y, smooth.scale(), targets=targets, smoothing=0.1),
    )
    assert "info_nce, smoothing=0.1" in repr(smooth)
    with pytest.raises(
        InputError, match="setting of info_nce 'smothing'; did you mean 'smoothing'"
    ):
        Objective(info_nce, smothing=0.1)


@pytest.mark.parametrize("make", LOSSES)
def test_a_compiled_step_is_the_plain_one(make):
    """By a backend that traces forward and backward, and needs no compiler."""
    towers = Towers()
    loss = make()

    def step(image, text):
        return loss(*towers(image, text))

    plain = step(*data())
    plain.backward()
    wanted = gradients(towers, loss)
    for module in (towers, loss):
        module.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager")(*data())
    compiled.backward()
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(gradients(towers, loss), wanted)


def on_each_rank(number: int):
    """Runs on each rank: loss and gradients of a step under DDP, on uneven shares of the data."""
    towers = DistributedDataParallel(Towers())
    loss = LOSSES[number]()
    share = slice(0, 3) if rank() == 0 else slice(3, None)
    image, text = towers(*(part[share] for part in data()))
    value = loss(gather(image), gather(text))
    value.backward()
    return world_size(), value.detach(), gradients(towers, loss)


@pytest.mark.parametrize("number", [0, 1])
def test_under_ddp_every_rank_has_the_gradient_of_one_process(two, number):
    towers = Towers()
    loss = LOSSES[number]()
    plain = loss(*towers(*data()))
    plain.backward()
    for ranks, value, grads in two.run(on_each_rank, number):
        assert ranks == 2
        torch.testing.assert_close(value, plain.detach())
        torch.testing.assert_close(grads, gradients(towers, loss), atol=1e-6, rtol=1e-4)
