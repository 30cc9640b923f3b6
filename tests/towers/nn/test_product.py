"""Products by oneDNN are those of torch, in both directions, and are taken where they are permitted
and a probe found them faster."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diptych.data.sources import cache
from diptych.towers.nn import product
from diptych.towers.nn.fused import join, project
from diptych.towers.nn.transformer import Transformer


@pytest.fixture
def onednn(monkeypatch):
    """oneDNN is taken, whatever a probe would find; the list of its products' shapes."""
    shapes = []
    inner = product._product

    def counted(x, weight, bias=None):
        shapes.append((*x.shape, len(weight)))
        return inner(x, weight, bias)

    monkeypatch.setattr(product, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(product, "_product", counted)
    return shapes


def off(found, wanted):
    """The largest difference over the largest entry."""
    return (found.detach() - wanted.detach()).abs().max() / wanted.detach().abs().max()


def drawn(*shape):
    return torch.from_numpy(np.random.default_rng(shape).normal(size=shape))  # float64


def test_a_count_of_operations_sees_every_product(onednn):
    with FlopCounterMode(display=False) as counter:
        product.linear(torch.ones(5, 7), torch.ones(9, 7))
    assert counter.get_total_flops() == 2 * 5 * 7 * 9
    assert not onednn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (1, 7), (2, 2, 2, 7)])
def test_values_and_gradients_are_those_of_float64(onednn, shape, bias):
    exact = [drawn(*shape), drawn(9, 7), *([drawn(9)] if bias else [])]
    ours = [each.float().requires_grad_() for each in exact]
    exact = [each.requires_grad_() for each in exact]
    out = drawn(*shape[:-1], 9)
    y = product.linear(*ours)
    assert y.shape == (*shape[:-1], 9)
    assert onednn
    y.backward(out.float())
    expected = F.linear(*exact)
    expected.backward(out)
    pairs = [(y, expected), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]
    for found, wanted in pairs:
        assert found.dtype == torch.float32
        assert off(found, wanted) <= 1e-6
    assert len(onednn) == 3  # forward, input and weight


def test_inputs_that_are_not_contiguous_and_gradients_that_are_not_asked_for(onednn):
    x = drawn(7, 5).float().T
    weight = drawn(9, 14).float()[:, ::2].requires_grad_()
    y = product.linear(x, weight)
    assert off(y, F.linear(x, weight)) <= 1e-6
    y.sum().backward()
    assert x.grad is None
    assert len(onednn) == 2


@pytest.mark.filterwarnings("ignore:TF32 acceleration", "ignore:`torch.jit.trace` is deprecated")
def test_what_is_not_float32_on_a_cpu_is_left_to_torch(onednn):
    weight = nn.Parameter(drawn(4, 3).float())
    x = drawn(2, 3).float()
    assert product.linear(x.double(), weight.double()).dtype == torch.float64
    assert product.linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    assert product.linear(x.to("meta"), weight.to("meta")).device.type == "meta"
    assert product.linear(x[:0], weight).shape == (0, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert product.linear(x, weight).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        product.linear(x, weight)
    layer = nn.Linear(3, 4)
    traced = torch.jit.trace(Run(layer), (x,), check_trace=False)
    exported = torch.export.export(Run(layer), (x,)).module()
    assert onednn == []
    for each in (traced, exported):
        torch.testing.assert_close(each(x), layer(x))


class Run(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return product.run(self.layer, x)


def test_layers_with_hooks_or_of_another_kind_are_called(onednn):
    x = drawn(2, 3).float()
    seen = []
    hooked = nn.Linear(3, 4)
    hooked.register_forward_hook(lambda *_: seen.append("forward"))
    backward = nn.Linear(3, 4)
    backward.register_full_backward_hook(lambda *_: seen.append("backward"))
    product.run(hooked, x)
    product.run(backward, x).sum().backward()
    assert seen == ["forward", "backward"]
    assert product.run(nn.Identity(), x) is x
    assert onednn == []
    product.run(nn.Linear(3, 4), x)
    assert onednn == [(2, 3, 4)]


def test_a_transformer_computes_what_it_did(onednn):
    torch.manual_seed(0)
    block = Transformer(16, 1, 2)
    exact = Transformer(16, 1, 2).double()
    exact.load_state_dict(block.state_dict())
    x = drawn(3, 5, 16)
    y = block(x.float())
    assert off(y, exact(x)) <= 3e-6
    out = drawn(3, 5, 16, 1)[..., 0]
    y.backward(out.float())
    exact(x).backward(out)
    ours, wanted = (
        torch.cat([each.grad.flatten() for each in module.parameters()])
        for module in (block, exact)
    )
    assert off(ours, wanted) <= 3e-6
    assert len(onednn) == 18  # six layers, three products each
    layers = [nn.Linear(4, 2), nn.Linear(4, 3)]
    join(layers)
    with torch.no_grad():
        project(layers, torch.ones(1, 4))
    assert onednn[-1] == (1, 4, 5)  # one product of both


# ---- the probe


class Clock:
    """A clock that each product of torch advances by `torch_takes`, of oneDNN by 1."""

    def __init__(self, monkeypatch, torch_takes):
        self.now = 0.0
        monkeypatch.setattr(product.F, "linear", lambda x, w: self.pass_by(torch_takes))
        monkeypatch.setattr(product, "_product", lambda x, w: self.pass_by(1.0))

    def pass_by(self, seconds):
        self.now += seconds

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("torch_takes", "faster"), [(1.9, True), (1.1, False), (0.5, False)])
def test_onednn_is_taken_where_it_is_clearly_faster(monkeypatch, tmp_path, torch_takes, faster):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clock = Clock(monkeypatch, torch_takes)
    monkeypatch.setattr(product.time, "perf_counter", clock)
    decide = product.onednn_is_faster.__wrapped__
    assert decide() is faster
    [kept] = (tmp_path / "diptych").iterdir()
    assert json.loads(kept.read_text()) == {"onednn": faster}
    monkeypatch.setattr(product, "_probe", lambda clock: pytest.fail("probed again"))
    assert decide() is faster  # another process of the run


def test_a_gain_at_wide_layers_alone_is_none(monkeypatch):
    clock = Clock(monkeypatch, 0.9)
    narrow = product.SHAPES[0][1]
    monkeypatch.setattr(
        product.F,
        "linear",
        lambda x, w: clock.pass_by(0.9 if narrow in (*x.shape, *w.shape) else 2.0),
    )
    assert product._probe(clock) == pytest.approx(0.9)
    monkeypatch.setattr(product, "SHAPES", product.SHAPES[1:])
    assert product._probe(clock) == pytest.approx(2.0)


def test_a_damaged_answer_is_found_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(product, "_probe", lambda clock: 2.0)
    place = cache.named("product", [product._VERSION, *product._machine()], ".json")
    place.parent.mkdir(parents=True)
    place.write_text("half of an ans")
    assert product.onednn_is_faster.__wrapped__() is True
    assert json.loads(place.read_text()) == {"onednn": True}


@pytest.mark.parametrize("lacks", ["library", "product"])
def test_without_onednn_nothing_is_probed(monkeypatch, lacks):
    if lacks == "library":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    monkeypatch.setattr(product, "_probe", lambda clock: pytest.fail("probed"))
    assert product.onednn_is_faster.__wrapped__() is False


def test_the_answer_depends_on_the_processor_and_the_threads(monkeypatch):
    before = product._machine()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert product._machine() != before
    monkeypatch.setattr(product, "_processor", lambda: "another")
    assert product._machine()[0] == "another"
