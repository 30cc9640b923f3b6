"""The block core against loops: values, gradients, memory and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.objectives.helpers import random, saved_bytes

from diptych.errors import InputError
from diptych.objectives import both_losses, info_nce, pair_losses, sigmoid_pairs
from diptych.objectives.core import different_group, group_targets, sigmoid_mean

SETTINGS = settings(max_examples=40, deadline=None)


def weights(targets, rows: int, columns: int, smoothing: float) -> list[list[float]]:
    """The target matrix entry by entry, in the words of the docstring."""
    table = []
    for i in range(rows):
        if targets is None:
            row = [float(j == i) for j in range(columns)]
        elif targets.is_floating_point():
            row = targets[i].tolist()
        else:
            row = [float(j == int(targets[i])) for j in range(columns)]
        if sum(row) > 0:
            row = [(1 - smoothing) * value + smoothing / columns for value in row]
        table.append(row)
    return table


def reference(x, y, scale, bias=None, *, targets=None, allowed=None, softmax=True, smoothing=0.0):
    """Row losses by loops over pairs, and which rows are alive."""
    rows, columns = len(x), len(y)
    wanted = weights(targets, rows, columns, smoothing)
    weight = torch.ones(rows, columns) if allowed is None else allowed.to(x.dtype)
    losses, alive = [], []
    for i in range(rows):
        logits = [
            scale * sum(x[i, d] * y[j, d] for d in range(x.shape[1]))
            + (0 if bias is None else bias)
            for j in range(columns)
        ]
        inside = [j for j in range(columns) if weight[i, j] > 0]
        if not inside or (softmax and not sum(wanted[i])):
            losses.append(x.sum() * 0)
            alive.append(False)
            continue
        if softmax:
            normaliser = torch.log(sum(weight[i, j] * torch.exp(logits[j]) for j in inside))
            losses.append(sum(wanted[i][j] * (normaliser - logits[j]) for j in range(columns)))
        else:
            asked = sum(weight[i, j] * torch.log(1 + torch.exp(logits[j])) for j in inside)
            losses.append(asked - sum(wanted[i][j] * logits[j] for j in range(columns)))
        alive.append(True)
    return torch.stack(losses), torch.tensor(alive)


def leaves(rows: int, columns: int, width: int = 3, seed: int = 0):
    x, y = random(rows, width, seed=seed), random(columns, width, seed=seed + 1)
    return [
        t.requires_grad_() for t in (x, y, torch.tensor(1.7).double(), torch.tensor(-0.4).double())
    ]


def check(ours, theirs, tensors) -> None:
    """Equal values and equal gradients under one random upstream gradient."""
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-9, atol=1e-9)
    upstream = random(*ours.shape, seed=9)
    a = torch.autograd.grad(
        (ours * upstream).sum(), tensors, allow_unused=True, materialize_grads=True
    )
    b = torch.autograd.grad(
        (theirs * upstream).sum(), tensors, allow_unused=True, materialize_grads=True
    )
    for mine, right in zip(a, b, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-8, atol=1e-9)


@SETTINGS
@given(
    rows=st.integers(1, 7),
    extra=st.integers(0, 4),
    tile=st.integers(1, 9),
    kind=st.sampled_from(["diagonal", "index", "soft"]),
    mask=st.sampled_from(["none", "bool", "weights", "callable"]),
    smoothing=st.sampled_from([0.0, 0.1]),
    softmax=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_rows_equal_the_loops_for_every_option_and_any_tile(
    rows, extra, tile, kind, mask, smoothing, softmax, seed
):
    columns = rows + extra
    x, y, scale, bias = leaves(rows, columns, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    targets = {
        "diagonal": None,
        "index": torch.randint(-1, columns, (rows,), generator=generator),
        "soft": random(rows, columns, seed=seed).softmax(1),
    }[kind]
    allowed = torch.rand(rows, columns, generator=generator) > 0.4
    if mask == "weights":
        allowed = allowed * torch.rand(rows, columns, generator=generator).double()
    given_mask = {"none": None, "callable": lambda i, j: allowed[i, j]}.get(mask, allowed)
    options = {"targets": targets, "softmax": softmax, "smoothing": smoothing}
    ours = pair_losses(x, y, scale, bias, allowed=given_mask, tile=tile, **options)
    theirs, alive = reference(
        x, y, scale, bias, allowed=None if mask == "none" else allowed, **options
    )
    assert ours.alive.tolist() == alive.tolist()
    check(ours.loss, theirs, (x, y, scale, bias))


@SETTINGS
@given(
    rows=st.integers(1, 7),
    extra=st.integers(0, 3),
    tile=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_columns_are_the_rows_of_the_transpose(rows, extra, tile, seed):
    columns = rows + extra
    x, y, scale, bias = leaves(rows, columns, seed=seed)
    allowed = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) > 0.3
    soft = random(rows, columns, seed=seed).softmax(1), random(columns, rows, seed=seed).softmax(1)
    by_row, by_column = both_losses(x, y, scale, bias, targets=soft, allowed=allowed, tile=tile)
    check(
        by_row.loss,
        reference(x, y, scale, bias, targets=soft[0], allowed=allowed)[0],
        (x, y, scale, bias),
    )
    by_row, by_column = both_losses(x, y, scale, bias, targets=soft, allowed=allowed, tile=tile)
    check(
        by_column.loss,
        reference(y, x, scale, bias, targets=soft[1], allowed=allowed.T)[0],
        (x, y, scale, bias),
    )


@pytest.mark.parametrize("tile", [1, 2, 5])
@pytest.mark.parametrize("softmax", [True, False])
def test_gradcheck_of_rows_scale_and_bias(tile, softmax):
    x, y, scale, bias = leaves(5, 6)
    allowed = torch.rand(5, 6, generator=torch.Generator().manual_seed(3)) > 0.2

    def loss(x, y, scale, bias):
        return pair_losses(x, y, scale, bias, allowed=allowed, softmax=softmax, tile=tile).mean()

    assert torch.autograd.gradcheck(loss, (x, y, scale, bias))
    assert torch.autograd.gradcheck(
        lambda *t: info_nce(*t, smoothing=0.1, tile=tile), (x, y[:5].detach(), scale)
    )
    assert torch.autograd.gradcheck(
        lambda *t: sigmoid_pairs(*t, tile=tile), (x.detach(), y, scale, bias)
    )


def test_positives_may_stay_out_of_the_normaliser():
    x, y, scale, _ = leaves(4, 4)
    decoupled = pair_losses(x, y, scale, allowed=~torch.eye(4, dtype=torch.bool)).loss
    logits = scale * x @ y.T
    expected = [
        torch.logsumexp(torch.cat([logits[i, :i], logits[i, i + 1 :]]), 0) - logits[i, i]
        for i in range(4)
    ]
    torch.testing.assert_close(decoupled, torch.stack(expected))


def test_a_row_with_no_allowed_pair_is_not_alive_and_gets_no_gradient():
    x, y, scale, bias = leaves(3, 3)
    allowed = torch.ones(3, 3, dtype=torch.bool)
    allowed[1] = False
    for softmax in (True, False):
        losses = pair_losses(x, y, scale, bias, allowed=allowed, softmax=softmax, tile=2)
        assert losses.alive.tolist() == [True, False, True]
        grad = torch.autograd.grad(losses.mean(), x)[0]
        assert grad.isfinite().all()
        assert grad[1].abs().sum() == 0
        torch.testing.assert_close(losses.mean(), losses.loss[[0, 2]].mean())


def test_a_batch_without_any_live_row_has_loss_zero():
    x, y, scale, _ = leaves(3, 3)
    loss = pair_losses(x, y, scale, targets=torch.full((3,), -1)).mean()
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert x.grad.abs().sum() == 0


def test_permuting_the_pairs_changes_nothing():
    x, y, scale, bias = (t.detach() for t in leaves(9, 9))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        info_nce(x[order], y[order], scale, tile=4), info_nce(x, y, scale, tile=4)
    )
    torch.testing.assert_close(
        sigmoid_pairs(x[order], y[order], scale, bias, tile=4),
        sigmoid_pairs(x, y, scale, bias, tile=4),
    )


def test_logits_of_any_size_stay_finite_in_value_and_gradient():
    x = torch.nn.functional.normalize(random(6, 4), dim=1).float().requires_grad_()
    for scale in (1e-3, 1.0, 1e3, 1e6):
        for loss in (info_nce(x, -x, scale, tile=2), sigmoid_pairs(x, -x, scale, -10.0, tile=2)):
            assert loss.isfinite()
            assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_equal_embeddings_give_log_n():
    x = torch.ones(8, 4) / 2
    assert info_nce(x, x, 30.0, tile=3).item() == pytest.approx(math.log(8), abs=1e-5)


def test_half_precision_is_computed_in_float32_also_under_autocast():
    x, y = (t.detach().bfloat16() for t in leaves(8, 8)[:2])
    exact = info_nce(x.float(), y.float(), 20.0)
    assert info_nce(x, y, 20.0).item() == exact.item()
    wide = x.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(wide, y.float(), 20.0)
        loss.backward()
    assert loss.item() == exact.item()
    check_grad = torch.autograd.grad(
        info_nce(free := x.float().requires_grad_(), y.float(), 20.0), free
    )[0]
    assert torch.equal(wide.grad, check_grad)


@pytest.mark.parametrize("name", ["info_nce", "sigmoid_pairs"])
def test_backward_keeps_the_features_and_vectors_but_no_logits(name):
    n, d = 1024, 8
    x, y = (random(n, d, seed=s).float().requires_grad_() for s in (0, 1))
    scale, bias = torch.tensor(5.0, requires_grad=True), torch.tensor(-5.0, requires_grad=True)
    objective = {
        "info_nce": lambda tile: info_nce(x, y, scale, tile=tile),
        "sigmoid_pairs": lambda tile: sigmoid_pairs(x, y, scale, bias, tile=tile),
    }[name]
    for tile in (None, 64, n):
        kept = saved_bytes(lambda tile=tile: objective(tile))
        assert kept <= 4 * (
            4 * n * d + 16 * n
        )  # a few vectors and copies of the features; the logits are 4 n²
        assert kept < 4 * n * n / 16


def test_no_tensor_is_larger_than_a_strip_at_4096_by_default(monkeypatch):
    from diptych.objectives import core

    seen = []
    original = core._strip
    monkeypatch.setattr(
        core, "_strip", lambda *a: seen.append(original(*a)[0].shape) or original(*a)
    )
    x = torch.zeros(4096, 2, requires_grad=True)
    info_nce(x, x, 1.0).backward()
    assert len(seen) == 16  # eight strips, made twice
    assert max(rows for rows, _ in seen) == 512


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: pair_losses(x, y[:, :2], 1.0), "must be"),
        (lambda x, y: info_nce(x, y[:2], 1.0), "give targets"),
        (lambda x, y: info_nce(x, y, 1.0, targets=torch.zeros(2).long()), "one column"),
        (lambda x, y: info_nce(x, y, 1.0, targets=torch.zeros(3, 2)), "a weight for each pair"),
        (lambda x, y: info_nce(x, y, 1.0, directions="both"), "choose"),  # type: ignore[arg-type]
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    x, y, *_ = leaves(3, 3)
    with pytest.raises(InputError, match=message):
        call(x, y)


@SETTINGS
@given(
    rows=st.integers(1, 7),
    extra=st.integers(0, 3),
    tile=st.integers(1, 9),
    kind=st.sampled_from(["diagonal", "index", "soft"]),
    masked=st.booleans(),
    scale=st.sampled_from([0.0, 1.7]),
    seed=st.integers(0, 1000),
)
def test_the_mean_of_questions_is_that_of_their_rows(rows, extra, tile, kind, masked, scale, seed):
    x, y, _, bias = leaves(rows, rows + extra, seed=seed)
    scale = torch.tensor(scale).double().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(-1, rows + extra, (rows,), generator=generator)
    targets = {
        "diagonal": None,
        "index": index,
        "soft": random(rows, rows + extra, seed=seed).softmax(1),
    }[kind]
    allowed = torch.rand(rows, rows + extra, generator=generator) > 0.4 if masked else None
    at_once = sigmoid_mean(x, y, scale, bias, targets=targets, allowed=allowed, tile=tile)
    by_rows = pair_losses(
        x, y, scale, bias, targets=targets, allowed=allowed, softmax=False, tile=tile
    ).mean()
    check(at_once[None], by_rows[None], (x, y, scale, bias))


def test_the_mean_of_questions_makes_each_strip_once(
    monkeypatch,
):
    from diptych.objectives import core

    seen = []
    original = core._strip
    monkeypatch.setattr(core, "_strip", lambda *a: seen.append(a) or original(*a))
    x, y, scale, bias = leaves(6, 6)
    loss = sigmoid_mean(x, y, scale, bias, tile=2)
    loss.backward()
    assert len(seen) == 3
    monkeypatch.setattr(torch, "mm", None)  # what makes a gradient
    with torch.no_grad():
        assert sigmoid_mean(x, y, scale, bias, tile=2) == loss


@pytest.mark.parametrize("groups", [[0], [3, 1, 3, 3, 1, 9], [4] * 5, [2, 1, 0]])
@pytest.mark.parametrize("share", [True, False])
def test_alike_are_the_rows_of_a_group(groups, share):
    found = group_targets(torch.tensor(groups), share=share).to_dense()
    expected = torch.tensor(
        [[float(i == j) / (groups.count(i) if share else 1) for j in groups] for i in groups]
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("tile", [1, 4, None])
def test_duplicates_are_right_as_well_or_neither(tile):
    """Sparse targets and a block of allowed pairs, against loops."""
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    groups = torch.tensor([1, 0, 1, 2, 1, 0, 3])
    logits = 2.0 * x @ y.T
    same = groups[:, None] == groups
    right = same / same.sum(1, keepdim=True)
    expected = (logits.logsumexp(1) - (right * logits).sum(1)).mean()
    found = pair_losses(x, y, 2.0, targets=group_targets(groups), tile=tile).mean()
    torch.testing.assert_close(found, expected)
    ours, theirs = torch.autograd.grad(found, (x, y)), torch.autograd.grad(expected, (x, y))
    torch.testing.assert_close(ours, theirs)
    loss = 0.0
    for i in range(7):
        kept = [j for j in range(7) if j == i or groups[j] != groups[i]]
        loss = loss + (logits[i, kept].logsumexp(0) - logits[i, i]) / 7
    torch.testing.assert_close(
        pair_losses(x, y, 2.0, allowed=different_group(groups), tile=tile).mean(), loss
    )


@pytest.mark.parametrize("masked", [False, True])
def test_float32_far_apart_has_the_values_and_gradients_of_float64(masked):
    # at a scale of 300 most terms are below the smallest float32
    wide = torch.nn.functional.normalize(random(24, 8), dim=1)
    near = torch.nn.functional.normalize(wide + 0.05 * random(24, 8, seed=1), dim=1)
    allowed = (random(24, 24, seed=2) > 0) | torch.eye(24, dtype=torch.bool) if masked else None
    found = {}
    for dtype in (torch.float64, torch.float32):
        x = wide.to(dtype).requires_grad_()
        y = near.to(dtype).requires_grad_()
        both = both_losses(x, y, torch.tensor(300.0, dtype=dtype), allowed=allowed, tile=7)
        losses = torch.cat([each.loss for each in both])
        found[dtype] = losses, *torch.autograd.grad(losses.sum(), (x, y))
    for single, double in zip(found[torch.float32], found[torch.float64], strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=2e-3)


def test_excluded_pairs_have_a_gradient_of_exactly_zero():
    x = torch.eye(4, 6).requires_grad_()
    y = torch.eye(4, 6).flip(0).contiguous().requires_grad_()
    allowed = torch.eye(4, dtype=torch.bool)
    for losses in both_losses(x, y, torch.tensor(100.0), allowed=allowed):
        for grad in torch.autograd.grad(losses.loss.sum(), (x, y), retain_graph=True):
            assert (grad == 0).all()  # the match is all of its normaliser


def test_values_that_are_not_finite_are_not_hidden():
    for bad in (math.nan, math.inf):
        x = torch.eye(3, 4)
        x[1, 2] = bad
        losses = pair_losses(x, torch.ones(3, 4), torch.tensor(1.0)).loss
        assert losses[0].isfinite()
        assert not losses[1].isfinite()
