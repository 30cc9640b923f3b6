"""W ranks are one process: values, gradients and statistics, in float64, over gloo."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize

from diptych import collectives, metrics
from diptych.errors import InputError
from diptych.objectives import info_nce, sigmoid_pairs

COUNTS = {1: (13,), 2: (8, 5), 4: (3, 4, 1, 5)}  # samples on each rank; 13 in all


@pytest.fixture(params=["two", "four"])
def ranks(request):
    return request.getfixturevalue(request.param)


def own(x: torch.Tensor, counts) -> torch.Tensor:
    """This rank's rows of what one process would hold."""
    return x.split(counts)[collectives.rank()] if len(counts) > 1 else x


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def towers(norm: bool) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    pair = [
        nn.Sequential(
            nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.Tanh(), nn.Flatten(), nn.Linear(18, 4)
        )
        if norm
        else nn.Sequential(nn.Flatten(), nn.Linear(10, 4))
        for _ in range(2)
    ]
    return tuple(collectives.convert_batch_norm(tower.double()) for tower in pair)  # type: ignore[return-value]


def step(loss: str, tile: int | None, norm: bool, counts) -> tuple[float, dict[str, torch.Tensor]]:
    """One step as the engine does it: encode own samples, gather, the same loss everywhere, mean of
    gradients."""
    image_tower, text_tower = towers(norm)
    log_scale, bias = (nn.Parameter(torch.tensor(value).double()) for value in (1.3, -2.0))
    image, text = own(random(13, 2, 5, seed=1), counts), own(random(13, 2, 5, seed=2), counts)
    x = collectives.gather(normalize(image_tower(image), dim=1))
    y = collectives.gather(normalize(text_tower(text), dim=1))
    value = {
        "softmax": lambda: info_nce(x, y, log_scale.exp(), tile=tile),
        "sigmoid": lambda: sigmoid_pairs(x, y, log_scale.exp(), bias, tile=tile),
    }[loss]()
    value.backward()
    state = {"scale": log_scale.grad, "bias": bias.grad}
    for side, tower in (("image", image_tower), ("text", text_tower)):
        state |= {f"{side}.{name}": parameter.grad for name, parameter in tower.named_parameters()}
    state = {name: grad for name, grad in state.items() if grad is not None}
    for grad in state.values():
        if dist.is_initialized():
            dist.all_reduce(grad)
            grad /= collectives.world_size()
    for side, tower in (("image", image_tower), ("text", text_tower)):
        state |= {f"{side}.{name}": buffer for name, buffer in tower.named_buffers()}
    return value.item(), state


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch_norm"])
@pytest.mark.parametrize(
    ("loss", "tile"), [("softmax", None), ("softmax", 3), ("sigmoid", None), ("sigmoid", 3)]
)
def test_the_step_of_w_ranks_is_that_of_one_process(ranks, loss, tile, norm):
    value, expected = step(loss, tile, norm, COUNTS[1])
    for other, state in ranks.run(step, loss, tile, norm, COUNTS[ranks.count]):
        assert other == pytest.approx(value, abs=1e-12)
        assert state.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(
                state[name], tensor, rtol=1e-5, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
            )


def pairs_of_own_rows(counts) -> torch.Tensor:
    """The gradient of a layer, of whose tokens each rank pairs its own rows with chosen others; ranks
    have tokens of different lengths, and the loss is not linear in the pairs."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 4).double()
    rank = collectives.rank() if len(counts) > 1 else 0
    lengths = [3 - number % 2 for number in range(len(counts))] if len(counts) > 1 else [3]
    tokens = random(13, 3, 5, seed=1)
    tokens[:, 2] = 0
    mine = own(tokens, counts)[:, : lengths[rank]]
    whole = collectives.exchange(layer(mine).tanh() * (mine != 0).any(2, keepdim=True))
    rows = own(torch.arange(13), counts)
    others = own(torch.arange(13).roll(5), counts)
    found = collectives.gather((whole[rows] * whole[others]).sum((1, 2)))
    found.softmax(0).square().sum().backward()
    grad = layer.weight.grad
    assert grad is not None
    if dist.is_initialized():
        dist.all_reduce(grad)
        grad /= collectives.world_size()
    return grad


def test_pairs_that_ranks_choose_have_the_gradient_of_one_process(ranks):
    expected = pairs_of_own_rows(COUNTS[1])
    for grad in ranks.run(pairs_of_own_rows, COUNTS[ranks.count]):
        torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)


def gathered(dtype: torch.dtype, counts) -> torch.Tensor:
    """What `gather` gives of 0, 1, 2, …"""
    return collectives.gather(
        own(torch.arange(sum(counts)).to(dtype)[:, None].expand(-1, 2), counts)
    )


@pytest.mark.parametrize("counts", [(8, 5), (0, 3), (3, 4, 1, 5), (0, 0, 2, 0)])
def test_gather_keeps_rank_order_for_uneven_and_empty_ranks_and_any_dtype(ranks, counts):
    if len(counts) != ranks.count:
        counts = (*counts, *(1 for _ in range(ranks.count)))[: ranks.count]
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        expected = torch.arange(sum(counts)).to(dtype)[:, None].expand(-1, 2)
        for result in ranks.run(gathered, dtype, counts):
            assert torch.equal(result, expected)


def of_two_widths() -> str:
    try:
        collectives.gather(torch.zeros(2, 3, 3 + collectives.rank()))
    except ValueError as error:
        return str(error)
    return "no error"


def test_rows_of_other_shapes_are_an_error_on_every_rank(ranks):
    for message in ranks.run(of_two_widths):
        assert "(2, 3, 3) on rank 0 and torch.float32 (2, 3, 4) on rank 1" in message
        assert "pad it to one size" in message
    assert all(
        torch.equal(*pair)
        for pair in zip(
            ranks.run(gathered, torch.int64, (1,) * ranks.count),
            [torch.arange(ranks.count)[:, None].expand(-1, 2)] * ranks.count,
            strict=True,
        )
    )


def of_lengths() -> tuple[torch.Tensor, torch.Tensor]:
    """What `gather` gives of rows of length 2, 3, …, and the gradient of a weighted sum of it."""
    me = collectives.rank()
    x = (torch.arange(2 * (2 + me)).view(2, 2 + me, 1) + 1.0 + 100 * me).requires_grad_()
    whole = collectives.gather(x, pad=-1)
    weights = torch.arange(whole.numel(), dtype=torch.float32).view(whole.shape)
    (whole * weights).sum().backward()
    return whole.detach(), x.grad / collectives.world_size()


def test_a_second_dimension_that_differs_is_padded(ranks):
    longest = 1 + ranks.count
    results = ranks.run(of_lengths)
    for rank, (whole, grad) in enumerate(results):
        assert whole.shape == (2 * ranks.count, longest, 1)
        weights = torch.arange(whole.numel(), dtype=torch.float32).view(whole.shape)
        for other in range(ranks.count):
            rows = whole[2 * other : 2 * other + 2]
            own = torch.arange(2 * (2 + other)).view(2, 2 + other, 1) + 1.0 + 100 * other
            assert torch.equal(rows[:, : 2 + other], own)
            assert (rows[:, 2 + other :] == -1).all()
        assert torch.equal(grad, weights[2 * rank : 2 * rank + 2, : 2 + rank])


def of_mean(counts) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of all ranks' rows, and the gradient of a rank's own."""
    x = own(random(sum(counts), 3, seed=5), counts).requires_grad_()
    found = collectives.mean(x)
    found.square().sum().backward()
    return found.detach(), x.grad / collectives.world_size()


@pytest.mark.parametrize("empty", [False, True], ids=["full", "one_rank_empty"])
def test_the_mean_over_ranks_is_that_of_one_process(ranks, empty):
    counts = (0,) + (3,) * (ranks.count - 1) if empty else COUNTS[ranks.count]
    expected, gradient = of_mean((sum(counts),))
    results = ranks.run(of_mean, counts)
    for found, _ in results:
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.cat([grad for _, grad in results]), gradient)


def found(counts) -> list[int]:
    """Ranks of the right items, from queries and gallery spread over the ranks of the group."""
    queries, gallery = (
        collectives.gather(own(random(13, 4, seed=seed).sign(), counts)) for seed in (3, 4)
    )
    return metrics.ranks(queries, gallery, torch.arange(13), tile=5).tolist()


def test_24_metrics_of_w_ranks_are_those_of_one_process(ranks):
    assert ranks.run(found, COUNTS[ranks.count]) == [found(COUNTS[1])] * ranks.count


def objects() -> tuple:
    me = collectives.rank()
    collectives.barrier()
    return (
        collectives.world_size(),
        collectives.gather_objects({"rank": me}),
        collectives.broadcast_object(f"from {me}"),
        collectives.any_rank(me == 1, False, True),
    )


def test_objects_and_flags_are_the_same_on_all_ranks(ranks):
    everyone = [{"rank": rank} for rank in range(ranks.count)]
    assert (
        ranks.run(objects) == [(ranks.count, everyone, "from 0", (True, False, True))] * ranks.count
    )


def normed(
    shape, counts, momentum, steps: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Output for own samples, running statistics and the input's gradient, after some steps; then
    in eval mode."""
    norm = collectives.convert_batch_norm(nn.BatchNorm2d(shape[1], momentum=momentum).double())
    for number in range(steps):
        x = own(random(*shape, seed=number) * 3 + 100, counts).requires_grad_()
        y = norm(x)
        (y * own(random(*shape, seed=50), counts)).sum().backward()
    with torch.no_grad():
        inference = norm.eval()(x)
    return torch.cat([y.detach(), inference]), dict(norm.named_buffers()), x.grad


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_ranks_equals_torch_in_values_statistics_and_gradients(ranks, momentum):
    shape, counts = (13, 3, 2, 2), COUNTS[ranks.count]
    reference = nn.BatchNorm2d(3, momentum=momentum).double()
    for number in range(3):
        x = (random(*shape, seed=number) * 3 + 100).requires_grad_()
        y = reference(x)
        (y * random(*shape, seed=50)).sum().backward()
    inference = reference.eval()(x).detach()
    results = ranks.run(normed, shape, counts, momentum, 3)
    parts = zip(
        results, y.split(counts), inference.split(counts), x.grad.split(counts), strict=True
    )
    for (output, buffers, grad), expected, expected_eval, expected_grad in parts:
        torch.testing.assert_close(
            output, torch.cat([expected, expected_eval]), rtol=1e-9, atol=1e-9
        )
        torch.testing.assert_close(grad, expected_grad, rtol=1e-7, atol=1e-9)
        for name, buffer in reference.named_buffers():
            torch.testing.assert_close(buffers[name], buffer, rtol=1e-9, atol=1e-9)


def lone_value() -> str:
    try:
        collectives.BatchNorm(2)(torch.zeros(int(collectives.rank() == 0), 2))
    except ValueError as error:
        return str(error)
    return "no error"


def test_batch_norm_of_a_single_value_is_an_error_on_every_rank(ranks):
    assert all("more than one value" in message for message in ranks.run(lone_value))


def test_without_a_group_all_of_it_is_the_identity():
    x = torch.randn(3, 2, requires_grad=True)
    assert collectives.gather(x) is x
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
    assert collectives.gather_objects("a") == ["a"]
    assert collectives.broadcast_object("a") == "a"
    assert collectives.any_rank(True, False) == (True, False)
    collectives.barrier()


def test_a_group_of_one_rank_is_one_process_too(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        inside = step("softmax", 3, True, COUNTS[1])
    finally:
        dist.destroy_process_group()
    outside = step("softmax", 3, True, COUNTS[1])
    assert inside[0] == outside[0]
    assert all(torch.equal(inside[1][name], outside[1][name]) for name in outside[1])


def test_converted_batch_norm_keeps_state_dict_mode_and_outputs():
    plain = (
        nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.BatchNorm2d(4)
        )
        .double()
        .eval()
    )
    x = random(2, 3, 4, 4, seed=0)
    before, state = plain(x), dict(plain.state_dict())
    converted = collectives.convert_batch_norm(plain)
    assert isinstance(converted[1], collectives.BatchNorm)
    assert not converted[1].training
    assert converted.state_dict().keys() == state.keys()
    assert torch.equal(converted(x), before)


def test_timms_batch_norm_keeps_its_activation_and_unknown_kinds_are_refused():
    layers = pytest.importorskip("timm.layers")
    norm = layers.BatchNormAct2d(4).double()
    x = random(5, 4, 2, 2, seed=0)
    expected, names = norm(x), norm.state_dict().keys()
    converted = collectives.convert_batch_norm(layers.BatchNormAct2d(4).double())
    assert isinstance(converted, collectives.BatchNorm)
    torch.testing.assert_close(converted(x), expected)
    assert converted.state_dict().keys() == names

    class Odd(nn.BatchNorm2d):
        pass

    with pytest.raises(InputError, match="Odd does more"):
        collectives.convert_batch_norm(nn.Sequential(Odd(3)))
