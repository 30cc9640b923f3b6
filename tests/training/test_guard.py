"""The spike guard: acts once on a scripted spike, says so, and is part of the state."""

import json

import pytest
import torch
from tests.factories import make_method
from tests.training.helpers import make_engine, read_log

from diptych.methods.base import Losses
from diptych.training.guard import WARM_UP, SpikeGuard
from diptych.training.step import forward_backward

SPIKE = WARM_UP + 3


def spiking(at_step=SPIKE, stop=None):
    """A backward whose loss, and with it the gradient, is 20 times too large at one step."""

    def backward(step, batch, at):
        if at.step == stop:
            raise KeyboardInterrupt
        losses = forward_backward(step, batch, at)
        if at.step != at_step:
            return losses
        for parameter in step.parameters():
            parameter.grad.mul_(20)
        return Losses({name: 20 * term for name, term in losses.terms.items()})

    return backward


def test_09_a_spike_is_skipped_once_and_logged(tmp_path):
    engine = make_engine(tmp_path, backward=spiking(), recipe={"steps": SPIKE + 5}, spike=5.0)
    before = []
    step = engine._step

    def watching(*args):
        before.append({name: value.clone() for name, value in engine.method.state_dict().items()})
        step(*args)

    engine._step = watching
    assert engine.run().skipped == 1
    log = read_log(tmp_path)
    acted = [line for line in log if line.get("skipped")]
    assert [line["step"] for line in acted] == [SPIKE]
    assert acted[0]["spike"] > 5
    assert acted[0]["loss"] > 5 * log[SPIKE - 1]["loss"]
    assert all(torch.equal(value, before[SPIKE + 1][name]) for name, value in before[SPIKE].items())
    assert not all(
        torch.equal(value, before[SPIKE][name]) for name, value in before[SPIKE - 1].items()
    )
    listed = json.loads((tmp_path / f"spike-{SPIKE}.json").read_text())
    assert listed["step"] == SPIKE
    assert len(listed["keys"]["train"]) in (14, 15)


def test_without_the_option_and_in_the_warm_up_nothing_is_skipped(tmp_path):
    assert (
        make_engine(tmp_path / "a", backward=spiking(), recipe={"steps": SPIKE + 2}).run().skipped
        == 0
    )
    early = make_engine(tmp_path / "b", backward=spiking(5), recipe={"steps": 8}, spike=5.0)
    assert early.run().skipped == 0


def test_resumed_between_warm_up_and_spike_the_guard_acts_as_unbroken(tmp_path):
    options = {"recipe": {"steps": SPIKE + 3}, "spike": 5.0, "save_every": 1}
    unbroken = make_engine(tmp_path / "a", backward=spiking(), **options)
    unbroken.run()
    with pytest.raises(KeyboardInterrupt):
        make_engine(tmp_path / "b", backward=spiking(stop=SPIKE - 1), **options).run()
    resumed = make_engine(tmp_path / "b", method=make_method(seed=5), backward=spiking(), **options)
    assert resumed.run(resume=True).skipped == 1
    assert all(
        torch.equal(v, resumed.method.state_dict()[k])
        for k, v in unbroken.method.state_dict().items()
    )
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")


def test_a_loss_that_stays_high_is_followed_within_half_a_window():
    guard = SpikeGuard(3.0)
    assert not any(guard.leap(1.0) for _ in range(100))
    acts = [guard.leap(10.0) is not None for _ in range(100)]
    assert acts == [True] * 50 + [False] * 50
    assert guard.leap(float("nan")) is None
    assert len(guard.losses) == 100
