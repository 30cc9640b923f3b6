"""Selection by the recipe: any method ends with its best epoch, or early."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.helpers import make_engine, read_log

from diptych.errors import InputError
from diptych.methods.base import Recipe, Stage
from diptych.testing import Toy
from diptych.training.schedule import factor, shape_of
from diptych.training.selection import Selection

NUMBERS = [0.9, 0.3, 0.5, 0.4, 0.45, 0.2, 0.1]  # of the start, then of each epoch


def selecting(folder, seen, **recipe):
    """An engine of six epochs of two steps, whose validation gives `NUMBERS` in turn."""

    def validate(module, done):
        seen[done] = {name: value.clone() for name, value in module.state_dict().items()}
        return {"val/r1": NUMBERS[done // 2]}

    return make_engine(folder, source=Toy(32), validate=validate, recipe={"steps": 12, **recipe})


@pytest.mark.parametrize(("keep", "done"), [("best", 4), ("last", 8)])
def test_any_method_ends_early_with_its_best_or_its_last_epoch(tmp_path, keep, done):
    seen = {}
    engine = selecting(tmp_path, seen, select="r1", patience=2, keep=keep)
    engine.run()
    assert engine.summary.steps == 8
    assert all(torch.equal(value, seen[done][name]) for name, value in engine.weights().items())
    selected = [line for line in read_log(tmp_path) if line.get("event") == "selected"]
    assert [(line["epoch"], line["val/r1"]) for line in selected] == [(1, 0.5)] * (keep == "best")


def test_a_wrong_number_costs_no_step(tmp_path):
    engine = selecting(tmp_path, {}, select="r5")
    with pytest.raises(InputError, match=r"selects by.*'val/r5'.*did you mean 'val/r1'"):
        engine.run()
    assert engine.summary.steps == 0


@pytest.mark.parametrize("options", [{"patience": 2}, {"keep": "last"}])
def test_patience_without_a_number_is_refused(options):
    with pytest.raises(InputError, match="name it with select, such as t2i_r1"):
        Recipe(**options)


@given(
    numbers=st.lists(st.floats(-1, 1) | st.just(float("nan")), min_size=1, max_size=40),
    patience=st.integers(0, 3),
    least=st.sampled_from([0.0, 0.01, 0.3]),
    small=st.booleans(),
)
def test_a_plateau_is_torchs(numbers, patience, least, small):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="min" if small else "max",
        factor=0.5,
        patience=patience,
        threshold=least,
        threshold_mode="abs",
        min_lr=1e-3,
        eps=0.0,
    )
    schedule = f"plateau:factor=0.5:patience={patience}:threshold={least}"
    selection = Selection(Path())
    stage = Stage(select="-val/x" if small else "val/x")
    for epoch, number in enumerate(numbers):
        theirs.step(number)
        selection.look(stage, epoch, {"val/x": number}, shape_of(schedule))
        restored = Selection(Path())
        restored.restore(json.loads(json.dumps(selection.state())))
        selection = restored
        rate = factor(9, 10, schedule=schedule, min_lr=1e-3, lowered=selection.lowered)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)


def test_the_rate_is_lowered_on_a_plateau(tmp_path):
    engine = selecting(tmp_path, {}, select="r1", schedule="plateau:patience=0", lr=1e-3, warmup=0)
    engine.run()
    rates = [line["lr"] for line in read_log(tmp_path) if "lr" in line]
    # of the start and six epochs: .9 | .3 .5 .4 .45 .2 .1, and the best is .5, after the second
    assert rates[0] == 1e-3
    assert rates[-1] == pytest.approx(1e-3 / 8)


def test_a_plateau_without_a_number_is_refused(tmp_path):
    engine = make_engine(tmp_path, source=Toy(32), recipe={"steps": 4, "schedule": "plateau"})
    with pytest.raises(InputError, match="name it with --select, such as t2i_r1"):
        engine.run()
