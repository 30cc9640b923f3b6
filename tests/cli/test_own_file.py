"""A method in a file of one's own, `diptych train mine.py`: trained, loaded, resumed; and run only
when named."""

import json
import shutil
from pathlib import Path

import pytest
from tests.cli.helpers import TINY, make_folder

from diptych.errors import InputError
from diptych.front.training import Run
from diptych.lab import run_report
from diptych.methods import registry
from diptych.methods.store import describe, load, read_description
from diptych.methods.text import language_model
from diptych.towers.build import text_tower
from diptych.towers.dual import DualEncoder

OWN = Path(__file__).parents[1] / "methods" / "decoupled.py"


@pytest.fixture
def run(diptych, tmp_path, monkeypatch) -> Path:
    """RUN, trained by mine.py, both in the working directory."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos")
    shutil.copy(OWN, tmp_path / "mine.py")
    called = diptych(
        "train", "mine.py", "--data", "photos", *TINY, "--method.scale", "5", "--out", "run"
    )
    assert called.code == 0, called
    return tmp_path / "run"


def test_it_is_trained_loaded_and_gone_on_with(run, diptych, refused):
    assert read_description(run)["method"] == str(run.parent / "mine.py")
    go_on = ("--resume", "--data", "photos", *TINY, "--method.scale", "5", "--out", "run")
    assert diptych("train", "mine.py", *go_on).code == 0
    message = refused("train", "--resume", "--out", "run")
    assert f"name that file: diptych train {run.parent / 'mine.py'}" in message


def test_help_of_a_method_whose_option_has_no_default(tmp_path, diptych):
    text = OWN.read_text().replace("scale: float = 10.0", "scale: float")
    (tmp_path / "mine.py").write_text(text)
    called = diptych("train", tmp_path / "mine.py", "--help")
    assert called.code == 0
    assert "small: must be given" in " ".join(called.out.split())


def test_a_method_without_presets_is_told(tmp_path, refused):
    text = OWN.read_text().replace("Decoupled.presets = ", "NONE = ")
    (tmp_path / "mine.py").write_text(text)
    message = refused("train", tmp_path / "mine.py", "--data", "photos", "--out", tmp_path / "run")
    assert "Decoupled has no presets; give the class presets = " in message


def test_its_file_is_enough_to_go_on_wherever_it_lies(run, diptych, refused):
    (run.parent / "mine.py").rename(run.parent / "moved.py")
    assert diptych("train", "moved.py", "--resume", "--out", "run").code == 0
    shutil.copy(run.parent / "moved.py", run.parent / "mine.py")
    with (run.parent / "mine.py").open("a") as file:
        file.write("# another\n")
    message = refused("train", "mine.py", "--resume", "--out", "run")
    assert f"{run.parent / 'mine.py'} has changed" in message


def test_a_config_that_adds_a_file_does_not_run_it(refused, tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemError('it was run')")
    config = tmp_path / "config.yaml"
    config.write_text(f"method: clip\nadded: ['{tmp_path}/mine.py:weight=0.5', siglip]\n")
    message = refused("train", "--config", config, "--data", "photos", "--out", "run")
    assert f"name it too: --with {tmp_path}/mine.py:weight=0.5 --with siglip" in message
    config.write_text(f"method: {tmp_path}/mine.py\n")
    message = refused(
        "discover", config, "--data", "a", "--val", "b", "--search", "random", "--out", "run"
    )
    assert "name that file itself" in message


def test_loading_a_model_runs_no_file(run, monkeypatch):
    monkeypatch.setattr(registry, "_FROM_FILES", {})  # as in another process
    (run.parent / "mine.py").write_text("raise SystemError('it was run')")
    assert load(run).embed_texts("a red thing").shape == (1, 16)
    path = run / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "plain": False}))
    with pytest.raises(InputError, match="runs only if it is named; name that file with --method"):
        load(run)


def test_a_model_of_its_own_loads_where_its_file_is_named(diptych, refused, tmp_path, monkeypatch):
    make_folder(tmp_path / "photos")
    shutil.copy(language_model.__file__, tmp_path / "lm.py")
    words = [*TINY[1:3], *TINY[4:], "--data", tmp_path / "photos", "--out", tmp_path / "run"]
    called = diptych("train", tmp_path / "lm.py", *words)
    assert called.code == 0, called
    assert "(3 steps) and report.html" in called.out
    assert f"generate {tmp_path}/run 'SOME WORDS' --method {tmp_path}/lm.py\n" in called.out
    assert (tmp_path / "run" / "report.html").exists()
    assert Run(tmp_path / "run").model.generate(["a"])
    monkeypatch.setattr(registry, "_FROM_FILES", {})
    assert "runs only if it is named" in refused("generate", tmp_path / "run", "a")
    (tmp_path / "lm.py").rename(tmp_path / "moved.py")
    called = diptych("generate", tmp_path / "run", "a", "--method", tmp_path / "moved.py")
    assert called.code == 0, called


def test_a_tower_of_ones_own_needs_the_file(tmp_path, monkeypatch):
    tower = text_tower("text:width=32:depth=1:heads=2", vocab_size=9, context=5)
    own = type("Own", (type(tower),), {"__module__": "diptych_method_mine"})
    tower.__class__ = own
    model = DualEncoder(image=None, text=tower, embed_dim=16)
    assert not describe("mine.py", {}, model, None, None)["plain"]
    with pytest.raises(InputError, match="unknown text tower 'mine'.* import it first"):
        text_tower({"name": "mine"})


def test_a_report_that_is_not_written_is_not_announced(diptych, tmp_path, monkeypatch):
    make_folder(tmp_path / "photos")
    file = shutil.copy(OWN, tmp_path / "mine.py")

    def refuse(*_):
        raise InputError("the disk is full")

    monkeypatch.setattr(run_report, "write", refuse)
    called = diptych("train", file, "--data", tmp_path / "photos", *TINY, "--out", tmp_path / "run")
    assert "holds the model (3 steps). Next:" in called.out


def test_its_help_lists_its_options(diptych, tmp_path):
    file = shutil.copy(OWN, tmp_path / "mine.py")
    out = diptych("train", file, "--help").out
    assert "--method.scale X" in out
    assert "small: 10; tune: 10; paper: 10" in out
