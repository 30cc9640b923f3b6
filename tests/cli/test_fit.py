"""Fitting indicators on the command line, and predicting them."""

import json

import pytest

from diptych.methods.store import load

DATA = "tiles:count=48:size=32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def test_a_fitted_run_predicts_and_is_judged(diptych, folder):
    out = folder / "carbon"
    called = diptych(
        "fit", "tiny", DATA, "--target", "carbon", "--epochs", "3", "--quiet", "--out", out
    )
    assert called.code == 0, called
    assert f"diptych predict {out} IMAGES" in called.out
    assert load(out).regressor.labels == ("carbon",)
    reported = json.loads(diptych("predict", out, f"{DATA}:split=test", "--json").out)
    assert len(reported["samples"]) == 48
    assert set(reported["samples"][0]) == {"key", "carbon"}
    how = ("--data", f"{DATA}:split=test", "--suite", "indicators", "--by", "predict")
    judged = json.loads(diptych("evaluate", out, *how, "--labels", "carbon", "--json").out)
    assert judged["indicators"]["n"] == 48
    assert set(judged["indicators"]["by_indicator"]) == {"carbon"}
    called = diptych("evaluate", out, *how)
    assert called.code == 2
    assert "unknown number that" in called.err
    assert "predicts 'population'" in called.err
    again = ("fit", "tiny", DATA, "--target", "carbon", "--epochs", "3", "--quiet", "--out", out)
    assert "go on with --resume" in diptych(*again).err
    assert diptych(*again, "--resume").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "diptych fit has no model; name a model"),
        (("tiny",), "diptych fit has no source; name images with labels"),
        (("tiny", DATA), "diptych fit has no out; name a folder with --out"),
        (("tiny", DATA, "--out", "x", "--target", "co2", "--quiet"), "labels.co2"),
    ],
)
def test_what_is_missing(diptych, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    called = diptych("fit", *arguments)
    assert called.code == 2
    assert said in called.err
    assert len(called.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
