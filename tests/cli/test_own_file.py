"""A method in a file of one's own, `diptych train mine.py`: trained, loaded, resumed; and run only
when named."""

import json
import shutil
from pathlib import Path

import pytest
from tests.cli.helpers import TINY, make_folder

from diptych.errors import InputError
from diptych.methods.store import load, read_description

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


def test_loading_a_model_runs_no_file(run):
    (run.parent / "mine.py").write_text("raise SystemError('it was run')")
    assert load(run).embed_texts("a red thing").shape == (1, 16)
    path = run / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "plain": False}))
    with pytest.raises(
        InputError, match="delivers more than two towers; give its module an entry point"
    ):
        load(run)


def test_its_help_lists_its_options(diptych, tmp_path):
    file = shutil.copy(OWN, tmp_path / "mine.py")
    out = diptych("train", file, "--help").out
    assert "--method.scale X" in out
    assert "small: 10; tune: 10; paper: 10" in out
