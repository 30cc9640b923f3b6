"""Lion against the published figures, scalar loops and timm; what a recipe for AdamW becomes; its
state."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import make_method
from tests.training.helpers import make_engine, read_log, small_model
from torch import nn

from diptych.errors import InputError
from diptych.methods.base import Recipe
from diptych.training import optim
from diptych.training.optim.lion import Lion

SETTINGS = settings(max_examples=30, deadline=None)
W0 = (1.0, -2.0, 0.5)
GRADIENTS = ((0.5, -1.0, 0.0), (-0.04, 0.2, 0.1), (-0.2, 0.3, 0.0))
BOTH = pytest.mark.parametrize("foreach", [False, True])


def sign(x: float) -> float:
    return float(x > 0) - float(x < 0)


def loops(w, gradients, lr, decay, b1, b2):
    """(w, m) after each step, one coordinate after the other, in the words of the paper."""
    w, m, history = list(w), [0.0] * len(w), []
    for g in gradients:
        for k in range(len(w)):
            c = b1 * m[k] + (1 - b1) * g[k]
            w[k] = w[k] - lr * (sign(c) + decay * w[k])
            m[k] = b2 * m[k] + (1 - b2) * g[k]
        history.append((list(w), list(m)))
    return history


def follow(w, gradients, **options):
    """(w, m) after each step of ours, in float64."""
    parameter = nn.Parameter(torch.tensor(w, dtype=torch.float64))
    optimizer = Lion([parameter], **options)
    history = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        history.append((parameter.tolist(), optimizer.state[parameter]["momentum"].tolist()))
    return history


@BOTH
def test_sheets_anchor_of_three_steps(foreach):
    found = follow(W0, GRADIENTS, lr=0.1, weight_decay=0.01, foreach=foreach)
    figures = [
        ((0.899, -1.898, 0.4995), (0.005, -0.01, 0)),
        ((0.798101, -1.996102, 0.3990005), (0.00455, -0.0079, 0.001)),
        ((0.897302899, -2.094105898, 0.2986014995), (0.0025045, -0.004821, 0.00099)),
    ]
    for (w, m), (right_w, right_m) in zip(found, figures, strict=True):
        assert w == pytest.approx(right_w, abs=1e-12)
        assert m == pytest.approx(right_m, abs=1e-12)


@BOTH
def test_sheets_anchor_that_tells_whether_the_memory_moved_first(foreach):
    (_, (w, _)) = follow(
        W0, [GRADIENTS[0], (-0.043, 0.2, 0.1)], lr=0.1, weight_decay=0.01, foreach=foreach
    )
    assert w[0] == pytest.approx(0.798101, abs=1e-12)  # memory first would give 0.998101


@SETTINGS
@given(
    lr=st.sampled_from([1e-3, 0.1, 1.0]),
    decay=st.sampled_from([0.0, 0.3]),
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    foreach=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_course_is_that_of_the_loops(lr, decay, betas, foreach, seed):
    gradients = torch.randn(
        6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    start = [0.5, -1.0, 0.0, 2.0]
    found = follow(
        start, gradients.tolist(), lr=lr, weight_decay=decay, betas=betas, foreach=foreach
    )
    for (w, m), (right_w, right_m) in zip(
        found, loops(start, gradients.tolist(), lr, decay, *betas), strict=True
    ):
        assert w == pytest.approx(right_w, rel=1e-9, abs=1e-9)
        assert m == pytest.approx(right_m, rel=1e-9, abs=1e-9)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, times: float = 1.0) -> None:
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)).to(
        next(model.parameters()).dtype
    )
    model.zero_grad()
    (model(x).square().sum() * times).backward()
    optimizer.step()


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@BOTH
def test_timm_takes_the_same_course(foreach, dtype):
    timm = pytest.importorskip("timm.optim.lion")
    ours, theirs = small_model(dtype), small_model(dtype)
    options = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.95, 0.98), "foreach": foreach}
    mine, right = Lion(ours.parameters(), **options), timm.Lion(theirs.parameters(), **options)
    for seed in range(8):
        step(ours, mine, seed)
        step(theirs, right, seed)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(mine.state[one]["momentum"], right.state[other]["exp_avg"])


def test_the_momentum_is_of_the_parameters_type():
    model = small_model(torch.bfloat16)
    optimizer = Lion(model.parameters())
    step(model, optimizer, 0)
    assert {state["momentum"].dtype for state in optimizer.state.values()} == {torch.bfloat16}
    assert optim.state_bytes(optimizer) == sum(p.nbytes for p in model.parameters())


def test_at_once_is_one_by_one_to_the_last_bit_also_in_groups():
    models = [small_model(), small_model()]
    optimizers = [
        Lion(
            [
                {"params": m[0].parameters(), "lr": 0.1},
                {"params": m[2].parameters(), "weight_decay": 0.2},
            ],
            lr=0.01,
            foreach=foreach,
        )
        for m, foreach in zip(models, (False, True), strict=True)
    ]
    for seed in range(5):
        for model, optimizer in zip(models, optimizers, strict=True):
            step(model, optimizer, seed)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


@BOTH
def test_without_decay_each_coordinate_moves_by_the_rate_or_not_at_all(foreach):
    w = nn.Parameter(
        torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    optimizer = Lion([w], lr=0.125, foreach=foreach)
    for seed in range(4):
        w.grad = torch.randn(
            50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1)
        )
        w.grad[:10] = 0
        before = w.detach().clone()
        optimizer.step()
        moved = (w.detach() - before).abs()
        assert (moved[:10] == 0).all()
        assert moved[10:].tolist() == pytest.approx([0.125] * 40, abs=1e-15)
        assert moved.norm().item() == pytest.approx(0.125 * math.sqrt(40))


@pytest.mark.parametrize("times", [2.0**-20, 2.0**12])
def test_gradients_of_any_size_take_the_same_course(times):
    """Exactly so for powers of two, which round as before."""
    ours, theirs = small_model(torch.float64), small_model(torch.float64)
    mine, other = (Lion(m.parameters(), lr=0.01, weight_decay=0.1) for m in (ours, theirs))
    for seed in range(6):
        step(ours, mine, seed)
        step(theirs, other, seed, times)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


def test_a_steady_sign_leads_to_the_inverse_of_the_decay():
    lr, decay, w0 = 0.1, 0.5, (3.0, -0.2)
    found = [w for w, _ in follow(w0, [(0.3, -2.0)] * 400, lr=lr, weight_decay=decay)]
    targets = (-1 / decay, 1 / decay)
    assert found[-1] == pytest.approx(targets, abs=1e-6)
    for n, w in enumerate(found[:50], 1):
        right = [
            t + (start - t) * (1 - lr * decay) ** n for t, start in zip(targets, w0, strict=True)
        ]
        assert w == pytest.approx(right, abs=1e-9)
        assert max(map(abs, w)) <= max(max(map(abs, w0)), 1 / decay)


def test_without_betas_it_is_the_sign_of_the_gradient():
    gradients = [(0.3, -2.0, 0.0), (-0.1, 4.0, 1.0)]
    ((first, _), (second, _)) = follow(W0, gradients, lr=0.1, betas=(0.0, 0.0))
    assert first == pytest.approx((0.9, -1.9, 0.5))
    assert second == pytest.approx((1.0, -2.0, 0.4))
    idle = follow(W0, [(0.0, 0.0, 0.0)] * 5, lr=0.1, weight_decay=0.5)
    for n, (w, _) in enumerate(idle, 1):
        assert w == pytest.approx([start * (1 - 0.1 * 0.5) ** n for start in W0])


@BOTH
def test_what_has_no_gradient_is_left_alone(foreach):
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lion([used, unused], lr=0.1, weight_decay=0.5, foreach=foreach)
    used.grad = torch.ones(2)
    optimizer.step()
    assert unused.tolist() == [1, 1]
    assert unused not in optimizer.state
    assert used.tolist() == pytest.approx([0.85, 0.85])


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned():
    w = nn.Parameter(torch.tensor([2.0]))
    optimizer = Lion([w], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert w.item() == 1.5


@BOTH
def test_complex_numbers_move_as_pairs(foreach):
    w = nn.Parameter(torch.tensor([1 + 1j, -1 + 0j]))
    w.grad = torch.tensor([2 - 3j, 0 + 5j])
    Lion([w], lr=0.25, foreach=foreach).step()
    assert w.tolist() == [0.75 + 1.25j, -1 - 0.25j]


def test_sparse_gradients_and_arguments_out_of_range_are_refused():
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse=False"):
        Lion(table.parameters()).step()
    w = nn.Parameter(torch.ones(1))
    for wrong, message in (
        ({"lr": -1.0}, "lr -1.0"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
        ({"betas": (0.9, 1.0)}, "betas of lion"),
        ({"betas": (0.9,)}, "betas of lion"),
    ):
        with pytest.raises(InputError, match=message):
            Lion([w], **wrong)


def test_decay_may_be_made_independent_of_the_rate():
    w = nn.Parameter(torch.tensor([1.0]))
    optimizer = Lion([w], lr=0.01, weight_decay=0.1, decoupled_by_init_lr=True)
    w.grad = torch.zeros(1)
    optimizer.step()
    assert w.item() == pytest.approx(0.9)
    optimizer.param_groups[0]["lr"] = 0.005  # a schedule at half
    optimizer.step()
    assert w.item() == pytest.approx(0.9 * 0.95)


def test_state_goes_through_a_state_dict_between_the_two_ways():
    ours, theirs = small_model(), small_model()
    first, second = Lion(ours.parameters(), lr=0.1), Lion(theirs.parameters(), lr=0.3, foreach=True)
    step(ours, first, 0)
    theirs.load_state_dict(ours.state_dict())
    saved = copy.deepcopy(first.state_dict())
    saved["param_groups"][0]["foreach"] = True
    second.load_state_dict(saved)
    for seed in (1, 2):
        step(ours, first, seed)
        step(theirs, second, seed)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


# ---- in a recipe


def test_state_is_as_large_as_the_parameters_where_adamws_is_twice_that():
    held = {}
    for name in ("lion", "adamw"):
        model = small_model()
        optimizer = optim.build(model, Recipe(optimizer=name), {})
        assert optim.state_bytes(optimizer) == 0
        step(model, optimizer, 0)
        held[name] = optim.state_bytes(optimizer)
    parameters = list(small_model().parameters())
    size = sum(p.nbytes for p in parameters)
    assert held == {"lion": size, "adamw": 2 * size + 4 * len(parameters)}  # AdamW counts steps too


@pytest.mark.parametrize(
    ("spec", "factor"), [("lion", 10.0), ("lion:factor=3", 3.0), ("lion:factor=1", 1.0)]
)
def test_rate_and_decay_are_those_of_the_recipe_for_adamw_by_the_factor(spec, factor):
    model, recipe, scale = small_model(), Recipe(lr=1e-3, weight_decay=0.2), {"0": 0.5}
    adamw = optim.build(model, recipe, scale).param_groups
    lion = optim.build(model, replace(recipe, optimizer=spec), scale).param_groups
    assert [group["names"] for group in lion] == [group["names"] for group in adamw]
    for one, other in zip(lion, adamw, strict=True):
        assert one["lr"] == pytest.approx(other["lr"] / factor)
        assert one["multiplier"] == pytest.approx(other["multiplier"] / factor)
        assert one["weight_decay"] == pytest.approx(other["weight_decay"] * factor)
        assert one["betas"] == (0.9, 0.99)


def test_betas_are_lions_own_and_given_with_its_name():
    recipe = Recipe(optimizer="lion:betas=(0.95,0.98)", betas=(0.5, 0.6))
    assert optim.build(small_model(), recipe, {}).param_groups[0]["betas"] == (0.95, 0.98)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lino", "did you mean 'lion'"),
        ("lion:facotr=3", "unknown option of optimizer 'lion' 'facotr'; did you mean 'factor'"),
        ("lion:factor=0", "'factor' of optimizer 'lion' is 0"),
        (
            "lion:factor=ten",
            "option 'factor' of optimizer 'lion' is 'ten'; it must be a number above 0",
        ),
        ("lion:betas=0.9", "'betas' of optimizer 'lion' is 0.9"),
        ("adamw:eps=1", "optimizer 'adamw' takes no options"),
    ],
)
def test_what_is_wrong_with_an_optimizers_words_is_named(spec, message):
    with pytest.raises(InputError, match=message):
        optim.build(small_model(), Recipe(optimizer=spec), {})


def test_the_engine_moves_each_weight_by_the_derived_rate_times_the_schedule(tmp_path):
    """Warm-up and cosine are those of the recipe; the log has the recipe's rate, Lion steps by a
    tenth of it."""
    method = make_method()
    weights = [method.model.image_projection.weight.detach().clone()]
    engine = make_engine(
        tmp_path,
        method=method,
        recipe={"optimizer": "lion", "weight_decay": 0.0, "lr": 1e-2, "steps": 6, "warmup": 2},
    )
    original = engine._step

    def watched(*args):
        original(*args)
        weights.append(method.model.image_projection.weight.detach().clone())

    engine._step = watched
    engine.run()
    moved = [float((b - a).abs().max()) for a, b in pairwise(weights)]
    rates = [line["lr"] for line in read_log(tmp_path) if "lr" in line]
    assert moved == pytest.approx([rate / 10 for rate in rates], rel=1e-3)
