"""`diptych export` on a model of a run, and what it refuses."""

import json
import time
from pathlib import Path

import pytest
from tests.cli.helpers import make_folder

import diptych as package

TINY = {
    "image_tower": "vit:image_size=32:patch=16:width=32:depth=1:heads=2:pre_norm=true",
    "text_tower": "text:width=32:depth=1:heads=2",
    "tokenizer": "bpe:vocab_size=320:context=24",
    "embed_dim": 16,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    package.train(
        "clip",
        str(make_folder(root / "data")),
        root / "run",
        batch_size=8,
        steps=1,
        quiet=True,
        **TINY,
    )
    return root / "run"


@pytest.mark.parity
def test_a_run_becomes_an_hf_folder_that_embeds_alike(diptych, run: Path, tmp_path: Path):
    called = diptych("export", run, "--to", "hf", "--out", tmp_path / "out")
    assert called.code == 0, called
    first, last = called.out.splitlines()
    assert first.startswith("largest difference to ours: images ")
    assert first.endswith(" (limit 1e-05)")
    assert last == f"{tmp_path / 'out'} holds the model for hf"
    words = ["a red thing"]
    ours, theirs = package.load(run), package.load(f"hf:{tmp_path / 'out'}")
    assert float((ours.embed_texts(words) - theirs.embed_texts(words)).abs().max()) <= 1e-5


def test_info_says_what_a_run_exports_to_and_what_keeps_it_from_the_rest(diptych, run: Path):
    assert "exports to" in diptych("info", run).out
    exports = json.loads(diptych("info", run, "--json").out)["exports"]
    assert exports["hf"] is None
    tiny = diptych("info", "tiny")
    assert "not to hf" in tiny.out
    assert "stem='conv'" in tiny.out


def test_what_takes_long_is_told(diptych, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("diptych.cli._screen.PATIENCE", 0.01)
    monkeypatch.setattr("diptych.models.export.onnx.write", lambda model, at: time.sleep(0.2))
    monkeypatch.setattr("diptych.models.export._compare", lambda *_: {"images": 0.0, "texts": 0.0})
    called = diptych("export", "tiny", "--to", "onnx", "--out", tmp_path / "out")
    assert called.code == 0, called
    assert called.err.startswith("writing tiny for onnx …\n")


def test_refusals_are_one_line_each(refused, run: Path, tmp_path: Path):
    assert "has no model" in refused("export")
    assert "lacks --to" in refused("export", run, "--out", tmp_path / "out")
    assert "lacks --out" in refused("export", run, "--to", "hf")
    assert (
        refused("export", run, "--to", "onix", "--out", "x")
        == "unknown target 'onix'; did you mean 'onnx'?"
    )
    assert "exists already" in refused("export", run, "--to", "hf", "--out", tmp_path)
    assert "there is no model at" in refused(
        "export", tmp_path / "no", "--to", "hf", "--out", tmp_path / "out"
    )
    assert not list(tmp_path.iterdir())
