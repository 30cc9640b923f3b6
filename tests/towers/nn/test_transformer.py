"""The stack of blocks."""

import pytest
import torch
import torch.nn.functional as F

from diptych.errors import InputError
from diptych.towers.nn.attention import Attention
from diptych.towers.nn.edits import Insert
from diptych.towers.nn.transformer import FeedForward, Transformer, quick_gelu


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_every_gradient_of_a_small_stack_is_right():
    stack = Transformer(4, 2, 2, activation="quick_gelu", layer_scale=0.5, cross=1).double()
    x, memory = (torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.tensor([[True, True, False]])
    assert torch.autograd.gradcheck(
        lambda a, b: stack(a, memory=b, mask=mask, memory_mask=mask), (x, memory)
    )


def test_blocks_run_in_two_halves_with_a_memory_in_the_upper_one():
    """ALBEF's text tower: layers 0-1 read text, layers 2-3 read images too, in one pass or in
    two."""
    stack = Transformer(16, 4, 2, cross=2, memory_width=12)
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 12)
    lower = stack(x, stop=2)
    torch.testing.assert_close(stack(lower, memory=memory, start=2), stack(x, memory=memory))
    assert not torch.allclose(stack(lower, start=2), stack(x, memory=memory))
    with pytest.raises(InputError, match="no cross-attention"):
        stack(x, memory=memory, stop=2)


def test_an_edit_sees_the_input_of_each_block_that_runs():
    stack, seen = Transformer(16, 4, 2), []

    def tap(layer, tokens):
        seen.append((layer, tokens))
        return tokens

    x = torch.randn(1, 3, 16)
    stack(x, tap, start=1, stop=3)
    assert [layer for layer, _ in seen] == [1, 2]
    assert seen[0][1] is x


def test_an_edit_that_outgrows_the_mask_is_an_error():
    stack, mask = Transformer(16, 2, 2), torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(InputError, match="key mask has 3 places, layer 1 4 tokens"):
        stack(torch.randn(1, 3, 16), Insert(torch.zeros(1, 16), 1, -1, "after"), mask=mask)


def test_activations_and_hidden_width_are_those_named():
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(quick_gelu(x), x / (1 + (-1.702 * x).exp()))
    assert FeedForward(1152, 3.7362, "gelu").fc1.out_features == 4304
    assert FeedForward(8, 2, "gelu_tanh").activation(x).equal(F.gelu(x, approximate="tanh"))
    assert FeedForward(8, 2, "quick_gelu").activation(x).equal(quick_gelu(x))
    assert FeedForward(8, 2, "gelu").activation(x).equal(F.gelu(x))
    with pytest.raises(InputError, match="did you mean 'gelu'"):
        FeedForward(8, 2, "gelo")
    with pytest.raises(InputError, match="choose heads that divide"):
        Attention(10, 4)


def test_dropout_acts_only_while_training():
    stack, x = Transformer(16, 2, 2, dropout=0.5), torch.randn(1, 3, 16)
    assert not torch.equal(stack(x), stack(x))
    stack.eval()
    assert torch.equal(stack(x), stack(x))


def test_a_gate_has_two_thirds_of_the_hidden_width_in_multiples_of_eight():
    for width, ratio, hidden in ((1536, 4.0, 4096), (10, 3.0, 24), (12, 4.0, 32)):
        mlp = FeedForward(width, ratio, "swiglu")
        assert (mlp.fc1.out_features, mlp.fc2.in_features) == (2 * hidden, hidden)
    x = torch.randn(3, 12)
    a, b = mlp.fc1(x)[:, :32], mlp.fc1(x)[:, 32:]
    torch.testing.assert_close(mlp(x), mlp.fc2(a * torch.sigmoid(a) * b))


@pytest.mark.parametrize("alone", [False, True])
def test_cross_attention_from_a_layer_on_in_every_second_one(alone):
    stack = Transformer(8, 5, 2, cross=1, cross_every=2, cross_alone=alone, memory_width=6).eval()
    assert [layer.cross is not None for layer in stack.layers] == [False, True, False, True, False]
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 4, 6)
    mask = torch.tensor([[True, True, False, True], [True] * 4])
    found = stack(x, causal=True, memory=memory, memory_mask=mask)
    changed = memory.clone()
    changed[0, 2] += 1
    assert torch.equal(stack(x, causal=True, memory=changed, memory_mask=mask), found)
    changed[1, 2] += torch.randn(6)
    assert not torch.equal(stack(x, causal=True, memory=changed, memory_mask=mask), found)
    if alone:  # the memory is normalised by each layer, the tokens are not mixed by it
        torch.testing.assert_close(
            stack(x, causal=True, memory=3 * memory + 2, memory_mask=mask), found, atol=1e-4, rtol=0
        )
        layer = stack.layers[1]
        torch.testing.assert_close(layer(x, memory=memory)[:, 1:], layer(x[:, 1:], memory=memory))
