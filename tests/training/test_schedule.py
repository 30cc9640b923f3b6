"""Schedules against their closed forms."""

import math

import pytest
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
        assert values[10 + step] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 100)))


def test_warmup_below_one_is_a_share():
    assert [factor(s, 100, warmup=0.1) for s in range(100)] == [factor(s, 100, warmup=10) for s in range(100)]


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        factor(0, 10, schedule="cosin")
