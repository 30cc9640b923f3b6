"""Optimisers against torch's, where torch has them."""

import copy

import pytest
import torch
from torch import nn

from diptych.methods.base import Recipe
from diptych.towers.nn.parts import Momentum
from diptych.training import optim
from diptych.training.optim.muon import orthogonal


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_the_spaces(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    result = orthogonal(matrix)
    assert ((torch.linalg.svdvals(result) > 0.6) & (torch.linalg.svdvals(result) < 1.3)).all()
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    exact = U @ Vh
    assert (result * exact).sum() / (result.norm() * exact.norm()) > 0.97


def test_muon_follows_torchs_muon_on_matrices_and_adamw_elsewhere():
    """torch rounds its Newton-Schulz steps to bfloat16: compared in the size that this leaves."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(24, 16), nn.LayerNorm(16))
    theirs = copy.deepcopy(ours)
    recipe = Recipe(optimizer="muon", lr=1e-2, weight_decay=0.1)
    mine = optim.build(ours, recipe, {})
    small = [p for p in theirs.parameters() if p.ndim < 2]
    others = [
        torch.optim.Muon(
            [theirs[0].weight],
            lr=1e-2,
            weight_decay=0.1,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(small, lr=1e-2, betas=recipe.betas, eps=recipe.eps, weight_decay=0),
    ]
    inputs = torch.randn(8, 24)
    for _ in range(5):
        for model, optimizers in ((ours, [mine]), (theirs, others)):
            model.zero_grad()
            (model(inputs) ** 3).mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    assert torch.allclose(ours[0].weight, theirs[0].weight, atol=4e-3)
    assert torch.allclose(ours[1].weight, theirs[1].weight, atol=2e-3)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_one_pass_makes_the_steps_of_separate_operations(name):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(24, 16), nn.LayerNorm(16)).double()
    theirs = copy.deepcopy(ours)
    recipe = Recipe(optimizer=name, lr=1e-2, weight_decay=0.1)
    mine = optim.build(ours, recipe, {"1": 0.5})
    assert all(group["fused"] for group in mine.param_groups)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    groups = [
        {**group, "fused": None} for group in optim.build(theirs, recipe, {"1": 0.5}).param_groups
    ]
    other = kind(groups, betas=recipe.betas, eps=recipe.eps, fused=False)
    inputs = torch.randn(8, 24, dtype=torch.float64)
    for _ in range(5):
        for model, optimizer in ((ours, mine), (theirs, other)):
            model.zero_grad()
            (model(inputs) ** 3).mean().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_loaded_state_has_the_layout_of_its_parameter(name):
    """An image tower's filters lie channels last, and saved state does not."""
    ends = []
    for loaded in (False, True):
        torch.manual_seed(0)
        layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
        recipe = Recipe(optimizer=name, lr=1e-2, weight_decay=0.1)
        optimizer = optim.build(layer, recipe, {})
        for step in range(4):
            if loaded and step == 2:
                state = copy.deepcopy(optimizer.state_dict())
                for kept in state["state"].values():
                    kept.update({key: value.contiguous() for key, value in kept.items()})
                optimizer = optim.build(layer, recipe, {})
                optimizer.load_state_dict(state)
                optim.lay_out(optimizer)
            optimizer.zero_grad()
            (layer(torch.randn(2, 4, 8, 8)) ** 2).mean().backward()
            optimizer.step()
        ends.append(layer.weight.detach())
    assert torch.equal(*ends)


def test_parameters_elsewhere_are_updated_by_separate_operations():
    groups = [{"params": [torch.zeros(2, device="meta")]}]
    assert not optim.in_one_pass(groups)


def test_adams_decay_is_a_part_of_the_gradient():
    """By hand at the first step: the moments of g + decay · w, whose size the step then loses."""
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    optimizer = optim.build(layer, Recipe(optimizer="adam", lr=0.1, weight_decay=0.5, eps=1e-8), {})
    layer.weight.grad, layer.bias.grad = torch.tensor([[-0.25]]), torch.zeros(1)
    optimizer.step()
    assert layer.weight.item() == pytest.approx(
        2.0 - 0.1
    )  # the sign of -0.25 + 0.5 · 2; AdamW would step up
    assert not optimizer.param_groups[-1]["weight_decay"]


def test_adafactor_takes_relative_steps_and_keeps_rows_and_columns():
    """By hand at the first step: the second moments are those of the gradient, so every entry of a
    gradient of rank one has a step of the rate times the root mean square of the weights."""
    layer = nn.Linear(64, 32)
    start = layer.weight.detach().clone()
    optimizer = optim.build(layer, Recipe(optimizer="adafactor", lr=0.01, weight_decay=0.5), {})
    rows = torch.linspace(-2, 2, 32)
    columns = torch.linspace(0.5, 3, 64)
    layer.weight.grad = torch.outer(rows, columns)
    layer.bias.grad = torch.ones(32)
    optimizer.step()
    size = 0.01 * start.square().mean().sqrt()
    expected = (1 - 0.01 * 0.5) * start - size * rows.sign()[:, None]
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-4, atol=1e-6)
    kept = (32 + 64) + 32 + 2  # of the matrix, of the biases, and two counts of steps
    assert optim.state_bytes(optimizer) == 4 * kept


def test_lars_scales_gradients_by_the_weights_of_matrices_alone():
    """By hand over two steps: 0.001 |w| / (|g| + decay |w|) times the gradient with its decay."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
        layer.bias.fill_(1.0)
    recipe = Recipe(optimizer="lars", lr=2.0, betas=(0.9, 0.0), eps=1e-8, weight_decay=0.1)
    optimizer = optim.build(layer, recipe, {})
    expected = layer.weight.detach().clone()
    step = torch.zeros(1, 2)
    gradient = torch.tensor([[0.6, -0.8]])
    for _ in range(2):
        layer.weight.grad = gradient.clone()
        layer.bias.grad = torch.tensor([0.5])
        trust = 0.001 * expected.norm() / (1 + 0.1 * expected.norm())
        step = 0.9 * step + trust * (gradient + 0.1 * expected)
        expected = expected - 2.0 * step
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), expected)
    assert layer.bias.item() == pytest.approx(1.0 - 2.0 * (0.5 + 0.95))


def test_a_convolution_is_a_matrix_of_filters():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 2, bias=False)
    flat = nn.Linear(12, 4, bias=False)
    flat.weight.data.copy_(conv.weight.flatten(1))
    gradient = torch.randn(4, 12)
    conv.weight.grad, flat.weight.grad = gradient.view_as(conv.weight).clone(), gradient.clone()
    for layer in (conv, flat):
        optim.build(layer, Recipe(optimizer="muon"), {}).step()
    assert torch.equal(conv.weight.flatten(1), flat.weight)


@pytest.mark.parametrize("name", optim.names())
def test_state_goes_through_a_state_dict(name):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(5, 4), nn.Embedding(3, 4))
    other = copy.deepcopy(layer)
    first = optim.build(layer, Recipe(optimizer=name), {})
    second = optim.build(other, Recipe(optimizer=name), {})

    def step(model, optimizer):
        torch.manual_seed(1)
        model.zero_grad()
        (model[0](torch.randn(2, 5)) + model[1](torch.tensor([0, 1]))).square().sum().backward()
        optimizer.step()

    step(layer, first)
    other.load_state_dict(layer.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(layer, first)
    step(other, second)
    assert all(
        torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True)
    )


def test_a_stage_does_not_thaw_a_copy_that_follows():
    """Whatever multiplier its name gets, a `Momentum` inside a method is not trained."""
    model = nn.ModuleDict({"fast": nn.Linear(2, 2)})
    model["slow"] = Momentum(model["fast"])
    optim.freeze(model, {"": 1.0})
    optimizer = optim.build(model, Recipe(), {})
    assert [name for group in optimizer.param_groups for name in group["names"]] == [
        "fast.weight",
        "fast.bias",
    ]
