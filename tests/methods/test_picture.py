"""A delivered module with parts of its own alone: it saves, loads, is described, and is where a run
continues from."""

import importlib
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import diptych
from diptych.cli import main
from diptych.errors import InputError
from diptych.methods import registry, store
from diptych.testing import check as suite


@pytest.fixture(scope="module", autouse=True)
def named():
    """The method under its name, as a third party's entry point gives it."""
    with pytest.MonkeyPatch.context() as patch:
        point = EntryPoint("picture", "tests.methods.picture", "diptych.methods")
        patch.setattr(registry, "entry_points", lambda group: [point])
        registry.cards.cache_clear()
        yield importlib.import_module("tests.methods.picture")
    registry.cards.cache_clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("picture") / "run"
    diptych.train("picture", "scenes:count=24:size=32", out, steps=40, quiet=True)
    return out


def test_it_resumes_saves_and_trains_on_two_ranks(two):
    subject = suite.Subject.of("picture")
    suite.cached_gradients_are_the_whole_batchs(subject)
    suite.saved_model_loads(subject)
    suite.resume_is_exact(subject)
    suite.two_ranks_train_as_one(subject, two)


def test_it_saves_and_loads(named, run):
    model = diptych.load(run)
    assert type(model) is named.PictureModel
    assert model.draw().size == (16, 16)
    assert float(model.delivered.pixels.detach().mean()) > 0.1
    description = store.read_description(run)
    assert (description["dual"], description["lm"]) == (None, None)
    assert description["preprocess"]["size"] == 16


def test_commands_know_it_by_what_it_can_do(run, capsys):
    assert main(["info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["method"], facts["parameters"]) == ("picture", 3 * 16 * 16)
    for words in (
        ["evaluate", str(run), "--data", "scenes:count=4:size=32"],
        ["embed", str(run), "scenes:count=4:size=32", "--out", str(run / "emb")],
        ["classify", str(run), "glyphs", "--names", "cat"],
        ["export", str(run), "--to", "onnx", "--out", str(run / "onnx")],
        ["embed", str(run), "glyphs", "--out", str(run / "emb"), "--precision", "bfloat16"],
    ):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(InputError, match="computes in float32 alone"):
        diptych.load(run, precision="bfloat16")
    with pytest.raises(InputError, match="a share weighs the two heads"):
        diptych.load(run, share=0.5)


def test_a_run_continues_from_it_and_one_that_wants_towers_does_not(run, tmp_path):
    settings = {"init": str(run), "steps": 1, "lr": 1e-6, "quiet": True}
    data = "scenes:count=8:size=32"
    again = diptych.train("picture", data, tmp_path / "again", **settings).model
    pixels = diptych.load(run).delivered.pixels
    torch.testing.assert_close(again.delivered.pixels, pixels, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="there is neither an image nor a text tower"):
        diptych.train("clip", data, tmp_path / "clip", **settings)
