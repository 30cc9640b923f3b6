"""Temperature, momentum copy, queue, frozen model."""

import copy
import math

import pytest
import torch
from torch import nn

from diptych.errors import InputError
from diptych.towers.nn.parts import Frozen, Momentum, Queue, Temperature, checksum


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("form", "init", "multiplier", "learned"),
    [
        ("exp", 1 / 0.07, 1 / 0.07, math.log(1 / 0.07)),
        ("divisor", 0.07, 1 / 0.07, 0.07),
        ("fixed", 20.0, 20.0, None),
    ],
)
def test_temperature_learns_what_its_form_says(form, init, multiplier, learned):
    scale = Temperature(init, form)
    assert scale().item() == pytest.approx(multiplier, rel=1e-6)
    values = [p.item() for p in scale.parameters()]
    assert values == ([] if learned is None else [pytest.approx(learned)])
    assert list(scale.state_dict()) == ([] if learned is None else ["value"])
    again = Temperature(**scale.config())
    assert again().item() == scale().item()


def test_a_whole_number_is_a_temperature_too():
    assert [Temperature(4, form)().item() for form in ("exp", "divisor", "fixed")] == pytest.approx(
        [4, 0.25, 4]
    )


def test_temperature_gradient_flows_through_the_multiplier():
    scale = Temperature(0.5, "divisor")
    scale().backward()
    assert scale.value.grad.item() == pytest.approx(-4.0)


@pytest.mark.parametrize(
    ("form", "init", "clamp", "low", "high"),
    [("exp", 10.0, (1.0, 100.0), 1.0, 100.0), ("divisor", 0.07, (0.001, 0.5), 2.0, 1000.0)],
)
def test_clamping_brings_the_multiplier_back_into_its_bounds(form, init, clamp, low, high):
    scale = Temperature(init, form, clamp)
    before = scale().item()
    scale.clamp_()
    assert scale().item() == before
    for value, expected in (
        (99.0, high if form == "exp" else low),
        (-99.0, low if form == "exp" else high),
    ):
        with torch.no_grad():
            scale.value.fill_(value)
        scale.clamp_()
        assert scale().item() == pytest.approx(expected, rel=1e-5)


def test_a_temperature_that_is_not_positive_or_of_no_form_is_an_error():
    with pytest.raises(InputError, match="not positive"):
        Temperature(0.0)
    with pytest.raises(InputError, match="not positive"):
        Temperature(1.0, clamp=(2.0, 1.0))
    with pytest.raises(InputError, match="did you mean 'divisor'"):
        Temperature(1.0, "divisr")


def test_momentum_follows_by_the_geometric_law():
    """From 0 towards 1: after 1000 updates at .995 the value is 1 - .995^1000 = 0.993346."""
    online = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(online.weight)
    slow = Momentum(online, 0.995)
    nn.init.ones_(online.weight)
    for _ in range(1000):
        slow.update()
    assert slow.module.weight.item() == pytest.approx(0.993346, abs=1e-4)
    slow.update(m=0.0)
    assert slow.module.weight.item() == 1.0


def test_momentum_has_no_gradient_stays_in_evaluation_mode_and_copies_buffers():
    online = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    slow = Momentum(online, 0.9).train()
    assert not slow.module.training
    online(torch.randn(8, 3))
    slow.update()
    assert torch.equal(slow.module[0].running_mean, online[0].running_mean)
    x = torch.randn(4, 3, requires_grad=True)
    assert not slow(x).requires_grad
    assert [p for p in slow.parameters() if p.requires_grad] == []
    assert all(name.startswith("module.") for name in slow.state_dict())


def test_a_copy_with_buffers_of_its_own_sees_the_batch_in_training():
    online = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    slow = Momentum(online, 0.0, buffers="own")
    assert slow.module[0].training
    x = torch.randn(8, 3) + 5
    with torch.no_grad():
        nn.init.ones_(online[1].weight)
    slow.update()
    assert torch.equal(slow.module[1].weight, online[1].weight)
    torch.testing.assert_close(slow(x), online(x).detach())
    torch.testing.assert_close(slow.module[0].running_mean, 0.1 * x.mean(0))
    online(x)
    slow.update()
    assert not torch.equal(slow.module[0].running_mean, online[0].running_mean)
    assert not slow.eval().module[0].training
    assert slow.train().module[0].training


def test_a_copied_method_keeps_its_momentum_pair_together():
    """A deep copy of both follows the copy, not the original."""
    pair = nn.ModuleDict({"online": nn.Linear(2, 2)})
    pair["slow"] = Momentum(pair["online"], 0.0)
    other = copy.deepcopy(pair)
    nn.init.ones_(other["online"].weight)
    other["slow"].update()
    pair["slow"].update()
    assert torch.equal(other["slow"].module.weight, torch.ones(2, 2))
    assert torch.equal(pair["slow"].module.weight, pair["online"].weight)


def test_queue_is_first_in_first_out_starts_on_the_sphere_and_is_state():
    queue = Queue(6, 4, seed=3)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(6))
    assert torch.equal(queue.rows, Queue(6, 4, seed=3).rows)
    assert not torch.equal(queue.rows, Queue(6, 4, seed=4).rows)
    for i in range(4):
        queue.push(torch.full((2, 4), float(i)))
    assert queue.rows[:, 0].tolist() == [3, 3, 1, 1, 2, 2]
    again = Queue(6, 4)
    again.load_state_dict(queue.state_dict())
    again.push(torch.full((2, 4), 9.0))
    assert again.rows[:, 0].tolist() == [3, 3, 9, 9, 2, 2]
    assert not again.rows.requires_grad


def test_queue_takes_batches_of_any_size_and_keeps_the_last_rows_in_order():
    queue, pushed = Queue(6, 1), []
    for size in (4, 5, 1, 6, 15, 3):
        rows = torch.arange(size).float()[:, None] + 100 * len(pushed)
        queue.push(rows)
        pushed += rows[:, 0].tolist()
        newest_last = queue.rows.roll(-int(queue.position), 0)[:, 0].tolist()
        assert newest_last[-min(6, len(pushed)) :] == pushed[-6:]


def test_queue_and_momentum_build_on_the_meta_device():
    with torch.device("meta"):
        assert Queue(4, 2).rows.is_meta
        assert Momentum(nn.Linear(2, 2)).module.weight.is_meta


def victim():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


def test_frozen_is_differentiable_through_and_never_trains():
    """A generator against a frozen victim (C-PGC): gradients pass, nothing of the victim
    changes."""
    method = nn.ModuleDict(
        {"generator": nn.Linear(3, 3), "victim": Frozen(victim(), "victim")}
    ).train()
    before = copy.deepcopy(method["victim"].module.state_dict())
    assert not any(module.training for module in method["victim"].module.modules())
    method["victim"](method["generator"](torch.randn(4, 3))).square().sum().backward()
    assert bool(method["generator"].weight.grad.abs().sum() > 0)
    assert {name for name, _ in method.named_parameters()} == {"generator.weight", "generator.bias"}
    torch.optim.AdamW(method.parameters(), lr=1.0, weight_decay=1.0).step()
    after = method["victim"].module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_frozen_leaves_its_checksum_alone_in_checkpoints_and_checks_it():
    one, other = Frozen(victim(), "victim"), Frozen(nn.Linear(3, 3), "victim")
    state = nn.ModuleDict({"v": one}).state_dict()
    assert list(state) == ["v.checksum"]
    nn.ModuleDict({"v": Frozen(victim(), "victim")}).load_state_dict(state)
    with pytest.raises(InputError, match="made with another 'victim'"):
        nn.ModuleDict({"v": other}).load_state_dict(state)


def test_frozen_may_take_its_model_later_and_compares_it_with_what_a_checkpoint_said():
    state = nn.ModuleDict({"v": Frozen(victim(), "victim")}).state_dict()
    for owner in (nn.ModuleDict({"v": Frozen(None, "victim")}) for _ in range(2)):
        assert list(owner.state_dict()) == ["v.checksum"]
        owner.load_state_dict(state)
        with pytest.raises(InputError, match="made with another 'victim'"):
            owner["v"].hold(nn.Linear(3, 3))
        owner.to(torch.float64)["v"].hold(victim().train())
        assert torch.equal(owner["v"].checksum, checksum(victim()))
        assert not owner["v"].module.training
        assert not list(owner.parameters())


def test_frozen_moves_with_its_owner_and_keeps_its_checksum():
    owner = nn.ModuleDict({"v": Frozen(victim(), "victim")}).to(torch.float64)
    assert owner["v"].module[0].weight.dtype == torch.float64
    assert owner["v"].checksum.dtype == torch.uint8
    assert torch.equal(owner["v"].checksum, checksum(victim()))


def test_the_checksum_depends_on_every_value_and_on_meta_is_zero():
    model = victim()
    before = checksum(model)
    with torch.no_grad():
        model[0].bias[1] += 1e-6
    assert not torch.equal(before, checksum(model))
    with torch.device("meta"):
        assert not Frozen(nn.Linear(2, 2), "x").checksum.any()
