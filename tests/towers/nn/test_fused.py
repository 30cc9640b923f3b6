"""q, k and v side by side: one product in inference, and never another result than the three
layers'."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from diptych.towers.nn import product
from diptych.towers.nn.attention import Attention
from diptych.towers.nn.fused import project

X = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    made = Attention(32, 4).eval()
    made.join()
    return made


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the weights that `F.linear` was called with."""
    seen, linear = [], torch.nn.functional.linear

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(tuple(weight.shape))
        return linear(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    monkeypatch.setattr(product, "onednn_is_faster", lambda: False)
    return seen


def slow(attention: Attention) -> Tensor:
    """The three layers, called one by one, and attention written out."""
    q, k, v = (
        layer(X).view(2, 5, 4, 8).transpose(1, 2)
        for layer in (attention.q, attention.k, attention.v)
    )
    return attention.out(((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 32))


@torch.no_grad()
def check(attention: Attention, products: list, joined: bool) -> None:
    expected = slow(attention)
    products.clear()
    torch.testing.assert_close(attention(X.to(attention.q.weight.dtype)), expected)
    assert products == ([(96, 32), (32, 32)] if joined else [(32, 32)] * 4)


def test_inference_runs_one_product_and_training_three(attention: Attention, products: list):
    check(attention, products, joined=True)
    products.clear()
    attention(X)
    assert products == [(32, 32)] * 4


def test_no_second_copy_and_plain_names(attention: Attention):
    weights = [attention.q.weight, attention.k.weight, attention.v.weight]
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    assert weights[0].untyped_storage().nbytes() == sum(weight.nbytes for weight in weights)
    assert {type(layer) for layer in (attention.q, attention.k, attention.v)} == {nn.Linear}
    assert set(attention.state_dict()) == set(Attention(32, 4).state_dict())
    stored = load(save(attention.state_dict()))
    assert all(torch.equal(stored[name], value) for name, value in attention.state_dict().items())


def test_right_after_training_loading_and_copying(attention: Attention, products: list):
    optimizer = torch.optim.AdamW(attention.parameters(), lr=0.1)
    attention(X).square().sum().backward()
    before = attention.q.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, attention.q.weight)
    check(attention, products, joined=True)  # the step writes in place
    other = Attention(32, 4)
    attention.load_state_dict(other.state_dict())
    check(attention, products, joined=True)
    attention.load_state_dict(
        other.state_dict(), assign=True
    )  # new tensors, each in a storage of its own
    check(attention, products, joined=False)
    check(copy.deepcopy(attention), products, joined=False)


def test_right_after_a_change_of_type_and_joined_again(attention: Attention, products: list):
    attention.double()
    with torch.no_grad():
        products.clear()
        attention(X.double())
    assert products == [(32, 32)] * 4
    attention.join()
    with torch.no_grad():
        products.clear()
        attention(X.double())
    assert products == [(96, 32), (32, 32)]


@pytest.mark.parametrize("what", ["hook", "pre-hook", "forward", "subclass", "replaced"])
def test_layers_that_do_more_are_called_one_by_one(attention: Attention, what: str):
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    if what == "hook":
        attention.k.register_forward_hook(lambda *args: 2 * args[2])
    elif what == "pre-hook":
        attention.k.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    elif what == "forward":
        plain = attention.k.forward
        attention.k.forward = lambda x: 2 * plain(x)  # type: ignore[method-assign]
    elif what == "subclass":
        attention.k.__class__ = Doubled
    else:
        attention.k = nn.Sequential(attention.k, nn.Identity())  # type: ignore[assignment]
    with torch.no_grad():
        torch.testing.assert_close(attention(X), slow(attention))


def test_biases_of_some_layers_alone_are_no_ground_for_one_product():
    layers = [nn.Linear(4, 2), nn.Linear(4, 3, bias=False)]
    with torch.no_grad():
        found = project(layers, torch.ones(1, 4))
    for y, layer in zip(found, layers, strict=True):
        torch.testing.assert_close(y, layer(torch.ones(1, 4)))
