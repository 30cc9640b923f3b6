"""The block stack and its edits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.towers.nn.transformer import (
    Attention,
    FeedForward,
    Insert,
    Transformer,
    attend,
    chain,
    edited,
    quick_gelu,
    stretch,
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def slow_attention(layer: Attention, x, memory=None, mask=None):
    """Head by head, with the softmax written out."""
    source = x if memory is None else memory
    B, N, D = x.shape
    q, k, v = layer.q(x), layer.k(source), layer.v(source)
    d = D // layer.heads
    out = torch.zeros_like(x)
    for b in range(B):
        for h in range(layer.heads):
            cut = slice(h * d, (h + 1) * d)
            for i in range(N):
                logits = k[b, :, cut] @ q[b, i, cut] / d**0.5
                if mask is not None:
                    logits = logits.masked_fill(~mask[b, i], -torch.inf)
                out[b, i, cut] = logits.softmax(0) @ v[b, :, cut]
    return layer.out(out)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_the_loop_over_heads(causal, masked):
    layer = Attention(8, 2).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    keys = (
        torch.tensor([[True, True, True, False, True], [True, False, True, True, False]])
        if masked
        else None
    )
    full = torch.ones(2, 5, 5, dtype=torch.bool)
    if masked:
        full = full & keys[:, None]
    if causal:
        full = full & torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(
        layer(x, mask=keys, causal=causal), slow_attention(layer, x, mask=full)
    )


def test_cross_attention_reads_a_memory_of_another_width_under_a_mask_for_each_query():
    layer = Attention(8, 2, memory_width=6).double()
    x, memory = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 4, 6, dtype=torch.float64)
    mask = torch.rand(2, 3, 4) < 0.6
    mask[..., 0] = True
    torch.testing.assert_close(layer(x, memory, mask=mask), slow_attention(layer, x, memory, mask))


def test_weights_are_those_that_attention_reads_by_and_only_out_keeps_a_bias():
    layer = Attention(8, 2, bias=False).double()
    assert {name for name, _ in layer.named_parameters() if name.endswith("bias")} == {"out.bias"}
    x, memory = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x, memory), slow_attention(layer, x, memory))
    weights = layer.weights(x, memory)
    assert weights.shape == (2, 2, 3, 4)
    read = torch.stack(
        [weights[:, h] @ layer.v(memory)[..., 4 * h : 4 * h + 4] for h in range(2)], 2
    )
    torch.testing.assert_close(layer(x, memory), layer.out(read.flatten(2)))


def test_a_query_that_may_see_nothing_gets_nothing():
    layer = Attention(8, 2)
    torch.nn.init.normal_(layer.out.bias)
    mask = torch.tensor([[[True, True], [False, False]]])
    out = layer(torch.randn(1, 2, 8), torch.randn(1, 2, 8), mask=mask)
    torch.testing.assert_close(out[0, 1], layer.out.bias)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_training_in_bfloat16_attends_as_float32_does(causal, masked):
    """On a CPU short sequences take a path of their own; values and gradients are those of float32
    within rounding."""
    torch.manual_seed(0)
    exact = [torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3)]
    small = [part.detach().bfloat16().requires_grad_() for part in exact]
    mask = torch.rand(2, 1, 1, 9) > 0.4 if masked else None
    if masked:
        mask[0] = False  # a sample without a key to see
    outputs = [attend(*parts, mask=mask, causal=causal) for parts in (exact, small)]
    found = [
        torch.autograd.grad(y.float().square().sum(), parts)
        for y, parts in zip(outputs, (exact, small), strict=True)
    ]
    assert outputs[1].dtype == torch.bfloat16
    for a, b in zip((outputs[0], *found[0]), (outputs[1], *found[1]), strict=True):
        assert (a - b.float()).norm() < 0.02 * a.norm()
    if masked:
        assert (outputs[1][0] == 0).all()


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


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    how=st.sampled_from(["replace", "before", "after"]),
    n=st.integers(1, 6),
    b=st.integers(1, 3),
)
def test_insert_equals_the_list_it_stands_for(data, how, n, b):
    """Shared or per-sample values, one position or one a sample, counted from either end."""
    batch = 2
    top = n - b if how == "replace" else n - 1
    if top < 0:
        return
    at = [data.draw(st.integers(0, top)) for _ in range(batch)]
    if data.draw(st.booleans()):
        at = [a - n for a in at]
    tokens = torch.arange(batch * n, dtype=torch.float32).view(batch, n, 1)
    values = -1 - torch.arange(batch * b, dtype=torch.float32).view(batch, b, 1)
    expected = []
    for row, value, a in zip(tokens.tolist(), values.tolist(), at, strict=True):
        a = a % n
        start, stop = {"replace": (a, a + b), "before": (a, a), "after": (a + 1, a + 1)}[how]
        expected.append(row[:start] + value + row[stop:])
    assert Insert(values, 0, torch.tensor(at), how)(0, tokens).tolist() == expected
    if at[0] == at[1]:
        assert Insert(values, 0, at[0], how)(0, tokens).tolist() == expected
    assert Insert(values, 1, at[0], how)(0, tokens) is tokens


def test_insert_passes_gradients_to_the_values_and_to_the_tokens_that_stay():
    values, tokens = torch.zeros(1, 2, requires_grad=True), torch.zeros(3, 4, 2, requires_grad=True)
    Insert(values, 0, torch.tensor([1, 2, 3]))(0, tokens).sum().backward()
    assert values.grad.tolist() == [[3.0, 3.0]]
    assert tokens.grad[..., 0].tolist() == [[1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("at", "how"),
    [(3, "replace"), (5, "before"), (-6, "before"), (torch.tensor([0, 3]), "replace")],
)
def test_insert_refuses_places_that_are_not_there(at, how):
    with pytest.raises(InputError, match="do not fit into the 4 tokens of layer 0"):
        Insert(torch.zeros(2, 1), 0, at, how)(0, torch.zeros(2, 4, 1))


def test_chain_applies_edits_in_order():
    edit = chain(
        Insert(torch.ones(1, 1), 0, 0, "before"), Insert(torch.full((1, 1), 2.0), 0, 0, "before")
    )
    assert edit(0, torch.zeros(1, 1, 1)).flatten().tolist() == [2, 1, 0]


def test_edited_reaches_foreign_layers_and_leaves_them_as_they_were():
    layers = [torch.nn.Identity(), torch.nn.Identity()]
    with edited(layers, lambda layer, x: x + 10**layer):
        assert layers[1](layers[0](torch.zeros(1))).item() == 11
    assert layers[1](layers[0](torch.zeros(1))).item() == 0


def test_stretch_keeps_the_first_positions_and_the_ends():
    old = torch.randn(6, 3)
    new = stretch(old, 11, keep=2)
    assert torch.equal(new[:2], old[:2])
    torch.testing.assert_close(new[-1], old[-1])
    assert torch.equal(stretch(old, 6), old)


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
