"""Selection by the recipe: any method ends with its best epoch, or early."""

import pytest
import torch
from tests.training.helpers import make_engine, read_log

from diptych.errors import InputError
from diptych.methods.base import Recipe
from diptych.testing import Toy

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
