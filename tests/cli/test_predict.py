"""Risks on the command line: of a source, of one file, and the mean of several runs."""

import json

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.methods.store import load

DATA = "kidneys:count=40:slices=8:size=16"
TINY = (
    *("--image-tower", "resnet3d:image_size=16:slices=8:widths=(4,8):depths=(1,1):stem=3"),
    *("--text-tower", "text:width=16:depth=1:heads=2:causal=false:pooling=mean"),
    *("--embed-dim", "16", "--steps", "1", "--batch-size", "16", "--quiet"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def runs(diptych, folder):
    """Two runs that predict risks, made once."""
    found = [folder / "one", folder / "two"]
    if not found[0].exists():
        begun = folder / "begun"
        assert diptych("train", "renalclip", "--data", DATA, *TINY, "--out", begun).code == 0
        for seed, out in enumerate(found):
            how = ("--preset", "survival", "--init", begun, "--steps", "1", "--batch-size", "8")
            called = diptych(
                *("train", "renalclip", "--data", DATA, *how, "--quiet"),
                *("--seed", seed, "--out", out),
            )
            assert called.code == 0, called
            assert f"diptych predict {out} VOLUMES" in called.out
            assert "--time recurrence_time --event recurrence_event" in called.out
    return found


def test_a_run_predicts_the_risk_of_each_sample(diptych, runs, monkeypatch):
    monkeypatch.setattr("diptych.cli.predict._SHOWN", 2)
    reported = json.loads(diptych("predict", runs[0], f"{DATA}:split=test", "--json").out)
    source = open_source(f"{DATA}:split=test")
    images = [source[at].images["main"] for at in range(40)]
    expected = load(runs[0]).predict(images)["risk"].tolist()
    assert [each["risk"] for each in reported["samples"]] == pytest.approx(expected, abs=1e-5)
    assert [each["key"] for each in reported["samples"]] == list(source.keys())
    shown = diptych("predict", runs[0], f"{DATA}:split=test").out
    assert "and 38 more" in shown


def test_runs_of_several_phases_are_averaged_where_a_sample_has_them(diptych, runs):
    source = open_source("kidneys:count=12:slices=8:size=16:split=test")
    both = ",".join(map(str, runs))
    how = ("--roles", "arterial,venous", "--json")
    reported = json.loads(diptych("predict", both, source.name, *how).out)
    models = [load(run) for run in runs]
    found = {each["key"]: each["risk"] for each in reported["samples"]}
    lacking = 0
    for at, key in enumerate(source.keys()):
        images = source[at].images
        own = [
            float(model.predict([images[role]])["risk"][0])
            for model, role in zip(models, ("arterial", "venous"), strict=True)
            if role in images
        ]
        lacking += 2 - len(own)
        assert (key in found) == bool(own)
        if own:
            assert found[key] == pytest.approx(np.mean(own), abs=1e-5)
    assert reported["bad"] == {"no-image": lacking}


def test_one_file_is_predicted_too(diptych, runs, tmp_path):
    volume = open_source(DATA)[0].images["main"].volume()
    np.save(tmp_path / "scan.npy", volume)
    reported = json.loads(diptych("predict", runs[0], tmp_path / "scan.npy", "--json").out)
    [each] = reported["samples"]
    assert each["key"] == "scan.npy"
    assert each["risk"] == pytest.approx(
        float(load(runs[0]).predict([volume])["risk"][0]), abs=1e-5
    )


def test_what_does_not_fit_is_refused(refused, runs, tmp_path):
    assert "name a RUN" in refused("predict")
    assert "name a folder" in refused("predict", runs[0])
    assert "or `diptych train renalclip --preset survival" in refused("predict", "tiny", DATA)
    roles = refused("predict", runs[0], DATA, "--roles", "arterial,venous")
    assert "1 models and 2 roles" in roles
    np.save(tmp_path / "scan.npy", np.zeros((2, 2, 2, 2)))
    line = refused("predict", runs[0], tmp_path / "scan.npy")
    assert "axes" in line
    assert "scan.npy" in line
    both = ",".join(map(str, runs))
    assert "one file is one image" in refused("predict", both, tmp_path / "scan.npy")
