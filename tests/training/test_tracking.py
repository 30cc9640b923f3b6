"""Trackers get the numbers of metrics.jsonl, each once, and nothing is touched unless one is
named."""

import json
import subprocess
import sys
import time

import pytest
import yaml
from tests.factories import make_method
from tests.training.helpers import make_engine

import diptych
from diptych.errors import InputError
from diptych.training import tracking
from diptych.training.log import Log
from diptych.training.step import forward_backward
from diptych.training.tracking import Tracker


class Broken(Exception):
    pass


def dies_at_6(step, batch, at):
    if at.step == 6:
        raise Broken
    return forward_backward(step, batch, at)


def validate(module, done):
    return {"val/recall": done / 7}


def engine_of(out, tracker="tensorboard", **settings):
    engine = make_engine(out, validate=validate, save_every=4, **settings)
    engine.log.tracker = Tracker(tracker, out, {"recipe": {"lr": 1e-3}, "init": None})
    return engine


def logged(out) -> dict[str, list]:
    """(step, number) by name from metrics.jsonl."""
    found = {}
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        for name, value in line.items():
            if isinstance(value, int | float) and name not in {"done", "step", "seconds"}:
                found.setdefault(name, []).append((line["done"], pytest.approx(value, rel=1e-6)))
    return found


def events(out) -> dict[str, list]:
    """The same as TensorBoard reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(each.step, each.value) for each in read.Scalars(name)]
        for name in read.Tags()["scalars"]
    }


def test_tensorboard_holds_the_numbers_of_the_log_and_no_step_twice_after_a_kill(tmp_path):
    with pytest.raises(Broken):
        engine_of(tmp_path, backward=dies_at_6).run()
    assert [step for step, _ in events(tmp_path)["loss"]] == [0, 1, 2, 3, 4, 5]
    time.sleep(1)  # TensorBoard reads files in the order of the seconds in their names
    engine_of(tmp_path, method=make_method(seed=99)).run(resume=True)  # from step 4
    found = events(tmp_path)
    assert [step for step, _ in found["loss"]] == list(range(9))
    assert {"loss", "lr", "grad_norm", "scale", "val/recall"} <= found.keys()
    assert found == logged(tmp_path)
    (sent,) = (tmp_path / "tensorboard").glob("*/hparams.yml")  # once, not at the resumption
    assert yaml.safe_load(sent.read_text()) == {"recipe.lr": 1e-3}


def test_a_run_begun_anew_leaves_nothing_of_the_one_before(tmp_path):
    with pytest.raises(Broken):
        engine_of(tmp_path, backward=dies_at_6).run()
    engine_of(tmp_path).run()
    assert events(tmp_path) == logged(tmp_path)
    assert len(list((tmp_path / "tensorboard").glob("*/hparams.yml"))) == 1


class Recorder:
    """What accelerate's WandBTracker and TrackioTracker are asked to do."""

    calls: list

    def __init__(self, project, **settings):
        self.calls.append(("begin", project, settings))

    def start(self):
        print("greetings")

    def store_init_configuration(self, values):
        self.calls.append(("config", values))

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append(("finish",))


@pytest.mark.parametrize(
    ("name", "cls"), [("wandb", "WandBTracker"), ("trackio", "TrackioTracker")]
)
def test_a_resumed_run_goes_on_in_the_same_run_of_a_service(
    tmp_path, monkeypatch, capsys, name, cls
):
    from accelerate import tracking as accelerated

    monkeypatch.setattr(accelerated, cls, Recorder)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    Recorder.calls = []
    with pytest.raises(Broken):
        engine_of(tmp_path, name, backward=dies_at_6).run()
    first, Recorder.calls = Recorder.calls, []
    engine_of(tmp_path, name).run(resume=True)
    assert Recorder.calls[0] == first[0]
    assert first[0][1:2] == ("diptych",)
    assert first[0][2]["resume"] == "allow"
    assert first[0][2]["config"] == {"recipe.lr": 1e-3}
    assert "config" not in [
        call[0] for call in first + Recorder.calls
    ]  # accelerate's would add a key of its own
    assert first[-1] == Recorder.calls[-1] == ("finish",)
    steps = [step for step, values in Recorder.calls[1:-1] if "loss" in values]
    assert steps == [4, 5, 6, 7, 8]
    assert capsys.readouterr().out == ""  # stdout is the verb's


def test_other_ranks_send_nothing(tmp_path):
    log = Log(None)
    log.tracker = Tracker("tensorboard", tmp_path, {})
    log.open(None)
    log.write(done=0, loss=1.0)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_unknown_and_missing_trackers_are_told_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"'tracker' of the run is 'tensorbord'.*did you mean 'tensorboard'\?"
    ):
        diptych.train("clip", "nowhere/", tmp_path / "run", tracker="tensorbord")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"trackio is not installed; .*pip install 'diptych\[trackio\]'"
    ):
        diptych.train("clip", "nowhere/", tmp_path / "run", tracker="trackio")
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_cannot_begin_is_one_line(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(InputError, match="the tracker tensorboard cannot begin: .*leave it out"):
        engine_of(tmp_path).run()


WITHOUT = """
import sys
from pathlib import Path
from tests.training.helpers import make_engine
make_engine(Path(sys.argv[1]), recipe={"steps": 1}).run()
found = [name for name in sys.modules if name.split(".")[0] in {"tensorboard", "wandb", "trackio", "gradio"}]
assert not found, found
"""


def test_no_tracker_is_imported_unless_named(tmp_path):
    subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], check=True, timeout=120)
    assert not (tmp_path / "tensorboard").exists()
