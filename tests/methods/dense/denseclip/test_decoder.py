"""The context decoder: equal to its equations in loops, and blind to the order of classes and
positions."""

import math

import torch

from diptych.methods.dense.denseclip.decoder import STD, ContextDecoder


def decoder():
    torch.manual_seed(0)
    made = ContextDecoder(6, 5, width=8, heads=2, depth=2).double().eval()
    with torch.no_grad():  # norms and biases that matter
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def normed(layer, x):
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [
        (v - mean) / math.sqrt(variance + 1e-5) * w + b
        for v, w, b in zip(x, weight, bias, strict=True)
    ]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def linear(layer, x):
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [dot(row, x) + own for row, own in zip(layer.weight.tolist(), bias, strict=True)]


def attention(layer, queries, memory):
    side = layer.q.out_features // 2
    q = [linear(layer.q, row) for row in queries]
    k = [linear(layer.k, row) for row in memory]
    v = [linear(layer.v, row) for row in memory]
    found = []
    for query in q:
        whole = []
        for head in (slice(0, side), slice(side, 2 * side)):
            weights = [math.exp(dot(query[head], key[head]) / side**0.5) for key in k]
            places = range(head.start, head.stop)
            whole += [dot(weights, [row[at] for row in v]) / sum(weights) for at in places]
        found.append(linear(layer.out, whole))
    return found


def added(a, b):
    return [
        [x + y for x, y in zip(one, other, strict=True)] for one, other in zip(a, b, strict=True)
    ]


def gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def slow(made, queries, memory):
    first, middle, last = made.memory_proj
    memory = [normed(last, linear(middle, normed(first, row))) for row in memory]
    norm, project = made.text_proj
    x = [linear(project, normed(norm, row)) for row in queries]
    for layer in made.layers:
        own = [normed(layer.norm1, row) for row in x]
        x = added(x, attention(layer.attn, own, own))
        x = added(x, attention(layer.cross, [normed(layer.norm2, row) for row in x], memory))
        inner = [[gelu(v) for v in linear(layer.mlp.fc1, normed(layer.norm3, row))] for row in x]
        x = added(x, [linear(layer.mlp.fc2, row) for row in inner])
    norm, project = made.out_proj
    return [linear(project, normed(norm, row)) for row in x]


def test_it_is_its_equations():
    made = decoder()
    queries = torch.randn(2, 3, 6, dtype=torch.float64)
    memory = torch.randn(2, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        found = made(queries, memory)
        for image in range(2):
            expected = slow(made, queries[image].tolist(), memory[image].tolist())
            torch.testing.assert_close(found[image], torch.tensor(expected, dtype=torch.float64))


def test_the_order_of_queries_and_of_the_memory_means_nothing():
    made = decoder()
    queries = torch.randn(1, 5, 6, dtype=torch.float64)
    memory = torch.randn(1, 7, 5, dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        found = made(queries, memory)
        torch.testing.assert_close(made(queries[:, order], memory.flip(1)), found[:, order])


def test_new_weights_are_small_and_queries_have_no_bias():
    made = ContextDecoder(64, 64, width=64, heads=4)
    assert len(made.layers) == 3
    weight = made.layers[0].mlp.fc1.weight
    assert 0.8 * STD < float(weight.detach().std()) < 1.2 * STD
    assert made.layers[0].attn.q.bias is None
    assert made.layers[0].cross.v.bias is None
    assert not made.layers[0].cross.out.bias.any()
    assert made.layers[0].dropout.p == 0.1
