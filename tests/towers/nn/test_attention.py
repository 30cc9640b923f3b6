"""Attention against a loop over heads."""

import pytest
import torch

from diptych.towers.nn.attention import Attention, attend


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
