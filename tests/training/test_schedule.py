"""Schedules against their closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.training.schedule import factor


@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.9), step=st.integers(0, 499))
def test_factor_lies_between_zero_and_one(steps, warmup, step):
    assert 0 <= factor(min(step, steps - 1), steps, warmup=warmup) <= 1


def test_cosine_falls_to_min_lr_and_warmup_rises_linearly():
    values = [factor(step, 110, warmup=10, min_lr=0.1) for step in range(110)]
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    for step in range(100):
        assert values[10 + step] == pytest.approx(
            0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 100))
        )


def test_warmup_below_one_is_a_share():
    assert [factor(s, 100, warmup=0.1) for s in range(100)] == [
        factor(s, 100, warmup=10) for s in range(100)
    ]


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        factor(0, 10, schedule="cosin")


@pytest.mark.parametrize(
    ("share", "start", "length"), [(0.02, 25, 1.6), (0.05, 100, 1.0), (0.3, 25, 1.0), (0.1, 4, 2)]
)
def test_onecycle_is_torchs(share, start, length):
    steps = 200
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        1.0,
        total_steps=round(length * steps),
        pct_start=share,
        div_factor=start,
        cycle_momentum=False,
    )
    for step in range(steps):
        ours = factor(
            step, steps, schedule=f"onecycle:div_factor={start}:length={length}", warmup=share
        )
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("per_epoch", "figure"), [(220, 3.20e-6), (20, 3.19e-6)])
def test_sprc_stops_on_its_way_down(per_epoch, figure):
    """Made for 80 epochs, stopped after 50."""
    rate = factor(50 * per_epoch, 50 * per_epoch, schedule="onecycle:length=1.6", warmup=1 / 50)
    assert 1e-5 * rate == pytest.approx(figure, abs=5e-9)


@given(
    steps=st.integers(1, 60),
    warmup=st.floats(0, 0.9),
    step=st.integers(0, 59),
    length=st.floats(1, 3),
)
def test_onecycle_lies_between_zero_and_one(steps, warmup, step, length):
    assert (
        0
        <= factor(
            min(step, steps - 1), steps, schedule=f"onecycle:length={length:.3f}", warmup=warmup
        )
        <= 1
    )


@given(
    schedule=st.sampled_from(
        [
            "poly",
            "steps:milestones=(0.1,0.5)",
            "restarts:first=3",
            "cyclic:cycles=3",
            "linear",
            "constant",
        ]
    ),
    steps=st.integers(1, 500),
    warmup=st.floats(0, 0.9),
    step=st.integers(0, 499),
)
def test_every_schedule_stays_between_min_lr_and_one(schedule, steps, warmup, step):
    value = factor(min(step, steps - 1), steps, schedule=schedule, warmup=warmup, min_lr=0.01)
    rising = step < round(warmup * steps)
    assert (0 if rising else 0.01 - 1e-12) <= value <= 1 + 1e-12


def test_poly_falls_by_a_power():
    values = [factor(s, 10, schedule="poly:power=0.9", min_lr=0.01) for s in range(10)]
    assert values == pytest.approx([0.01 + 0.99 * (1 - s / 10) ** 0.9 for s in range(10)])


@pytest.mark.parametrize(("first", "times"), [(10, 2), (7, 1), (5, 3)])
def test_restarts_is_torchs_cosine_with_warm_restarts(first, times):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, first, times)
    for step in range(100):
        ours = factor(step, 100, schedule=f"restarts:first={first}:times={times}")
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_steps_is_torchs_multi_step():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [80, 90, 95], gamma=0.1)
    for step in range(100):
        ours = factor(step, 100, schedule="steps:milestones=(0.8,0.9,0.95):gamma=0.1")
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_cyclic_has_its_minima_between_cycles():
    """lr(n) = (max - min) (1 + cos(π (1 + 2n / length))) / 2 + min, here 4 cycles of 25 steps."""
    low = 1e-3
    for step in range(100):
        ours = factor(step, 100, schedule="cyclic:cycles=4", min_lr=low)
        assert ours == pytest.approx(
            (1 - low) * 0.5 * (1 + math.cos(math.pi * (1 + 2 * step / 25))) + low
        )
    assert factor(50, 100, schedule="cyclic:cycles=4", min_lr=low) == pytest.approx(low)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("poly:power=0", "above 0"),
        ("steps:milestones=(0.5,2)", "a number from 0 to 1"),
        ("restarts:first=0", "at least 1"),
        ("cyclic:cycle=3", "did you mean 'cycles'"),
        ("onecycle:length=0.5", "of at least 1"),
        ("onecycle:div_facto=4", "did you mean 'div_factor'"),
        ("cosine:start=4", "takes no options; write cosine"),
        ("plateau:patience=-1", "at least 0"),
    ],
)
def test_options_of_schedules_are_checked(schedule, message):
    with pytest.raises(InputError, match=message):
        factor(0, 10, schedule=schedule)
