"""Heads: kinds, the norms of the MLP, vectors of any leading shape, refusals."""

import pytest
import torch
from torch import nn

from diptych.errors import InputError
from diptych.towers.nn.heads import head


def test_each_kind_has_its_weights():
    assert isinstance(head("none", 8, 8, "image"), nn.Identity)
    assert isinstance(head("fit", 8, 8, "image"), nn.Identity)
    assert {
        name: value.shape for name, value in head("linear", 8, 4, "image").named_parameters()
    } == {"weight": (4, 8)}
    assert dict(head("fit", 8, 4, "image").named_parameters()).keys() == {"weight"}
    assert dict(head("affine", 8, 4, "image").named_parameters()).keys() == {"weight", "bias"}


def linears(module):
    return [layer for layer in module if isinstance(layer, nn.Linear)]


def test_an_mlp_has_its_layers_biases_and_norms():
    rocket = head("mlp:hidden=32:layers=3:bias=true:last_bias=true", 8, 4, "image")
    assert [layer.weight.shape for layer in linears(rocket)] == [(32, 8), (32, 32), (4, 32)]
    assert all(layer.bias is not None for layer in linears(rocket))
    assert [type(layer) for layer in rocket][-1] is nn.Linear
    assert [layer.weight.shape for layer in linears(head("mlp", 8, 4, "image"))] == [(8, 8), (4, 8)]
    assert [layer.weight.shape for layer in linears(head("mlp:layers=1", 8, 4, "image"))] == [
        (4, 8)
    ]


def test_norm_and_activation_are_chosen_and_the_hidden_width_may_lie_between():
    """A bias-free head of two layers with GELU: 8 -> 6 -> 4."""
    plain = head("mlp:hidden=mean:norm=none:activation=gelu", 8, 4, "text").double()
    assert [type(layer) for layer in plain] == [nn.Linear, nn.GELU, nn.Linear]
    assert {name: value.shape for name, value in plain.named_parameters()} == {
        "0.weight": (6, 8),
        "2.weight": (4, 6),
    }
    x = torch.linspace(-2, 2, 16, dtype=torch.float64).reshape(2, 8)
    inner = x @ plain[0].weight.T
    expected = (inner * 0.5 * (1 + torch.erf(inner / 2**0.5))) @ plain[2].weight.T
    torch.testing.assert_close(plain(x), expected)
    layered = head("mlp:norm=layer", 8, 4, "text")
    assert [type(layer) for layer in layered] == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(
    ("norm", "learned"),
    [
        ("plain", set()),
        ("scaled", {"weight"}),
        ("affine", {"weight", "bias"}),
        ("layer", {"weight", "bias"}),
    ],
)
def test_the_last_norm_learns_what_it_says(norm, learned):
    last = head(f"mlp:last_norm={norm}", 8, 4, "image")[-1]
    assert isinstance(last, nn.LayerNorm if norm == "layer" else nn.BatchNorm1d)
    assert {name for name, value in last.named_parameters() if value.requires_grad} == learned


def test_leading_dimensions_are_samples():
    torch.manual_seed(0)
    mlp = head("mlp:last_norm=plain", 8, 4, "image")
    x = torch.randn(6, 5, 8)
    found = mlp(x)
    assert found.shape == (6, 5, 4)
    torch.testing.assert_close(found.flatten(0, 1).mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        found.flatten(0, 1).var(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mpl", "did you mean 'mlp'"),
        ("linear:hidden=3", "linear takes no options"),
        ("mlp:hiden=3", "did you mean 'hidden'"),
        ("mlp:layers=0", "at least 1"),
        ("mlp:hidden=most", "a whole number of at least 1 or mean or null"),
        ("mlp:norm=group", "batch or layer or none"),
        ("mlp:last_norm=scale", "did you mean 'scaled'"),
        ("none", "8 wide and has no projection to 4"),
    ],
)
def test_what_is_no_head_is_refused(spec, said):
    with pytest.raises(InputError, match=said):
        head(spec, 8, 4, "image")
