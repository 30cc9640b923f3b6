"""`diptych scaling`: tables, JSON and the page."""

import json

import numpy as np
import pytest
from tests.lab import jobs

from diptych.cli import main
from diptych.lab.compare import cell


@pytest.fixture
def runs(tmp_path):
    """Two procedures of 40 runs each, one ahead of the other above 1e8 GFLOPs."""
    draw = np.random.default_rng(0)
    rows = ["model,samples_seen,gflops,acc1"]
    for name, scale, exponent in (("first", 4.0, -0.09), ("second", 7.0, -0.12)):
        for c in np.geomspace(3e7, 1e11, 40):
            error = scale * c**exponent * (1 + draw.exponential(0.01))
            rows.append(f"{name},{c**0.7:.0f},{c:.6g},{1 - error:.6f}")
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(rows))
    return str(path)


ASKED = ("--metric", "acc1", "--by", "model", "--form", "power", "--bootstraps", "20")


def test_tables_and_a_page(runs, tmp_path, capsys):
    page = tmp_path / "laws.html"
    assert main(["scaling", runs, *ASKED, "--predict", "1e12", "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "first and second cross at 1." in shown
    assert "apart on both sides" in shown
    assert "Tested on the runs above" in shown
    assert "Predicted" in shown
    html = page.read_text()
    assert html.count("<svg viewBox") == 3  # the drawing, and two marks of its legend
    assert "first and second cross" in html


def test_json_has_all_of_it(runs, capsys):
    assert main(["scaling", runs, *ASKED, "--predict", "1e12", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    first, second = found["laws"]
    assert (first["runs of"], first["runs"]) == ("first", 40)
    assert first["a"] == pytest.approx(-0.09, abs=0.002)
    assert first["error at 1e+12 low"] < first["error at 1e+12"] < first["error at 1e+12 high"]
    assert len(second["held_out"]) == 3
    (crossed,) = found["crossings"]
    assert crossed["found"][0]["separate"]
    assert crossed["share"] == 1
    assert crossed["low"] < 1.26e8 < crossed["high"] * 1.1


def test_a_floor_that_is_not_shown_is_told(runs, capsys):
    assert main(["scaling", runs, "--metric", "acc1", "--by", "model", "--bootstraps", "20"]) == 0
    assert "first: the runs show no floor" in capsys.readouterr().out


def test_runs_that_are_held_out_are_not_fitted_but_predicted(runs, tmp_path, capsys):
    page = tmp_path / "laws.html"
    told = ("--hold-out", "1e10", "--out", str(page), "--json")
    assert main(["scaling", runs, *ASKED, *told]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["fit"]["c_max"] == 1e10
    (test,) = found["laws"][0]["held_out"]
    assert test["c_max"] == 1e10
    assert test["fitted"] + test["held_out"] == found["laws"][0]["frontier"]
    assert "dashed beyond the largest run that is fitted" in page.read_text()


def test_the_frontier_may_be_an_alpha_shape(runs, capsys):
    asked = (*ASKED, "--frontier", "hull", "--alpha", "0.1", "--json")
    assert main(["scaling", runs, *asked]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["fit"]["frontier"], found["fit"]["alpha"]) == ("hull", 0.1)
    assert main(["scaling", runs, *ASKED, "--alpha", "0.1"]) == 2
    assert "alpha 0.1 with the frontier 'bins': it is of 'hull'" in capsys.readouterr().err


def test_laws_of_three_sources_and_three_tasks_from_checkpoints(tmp_path, monkeypatch, capsys):
    """A run a source, whose checkpoints are the points of its laws."""
    monkeypatch.setattr(cell, "run", jobs.lawful)
    grid = (
        "--budget",
        "2000,4000,8000,16000,32000",
        "--seeds",
        "0",
        "--recipe.schedule",
        "constant",
    )
    folders = [str(tmp_path / name) for name in jobs.STEEPER]
    for name, folder in zip(jobs.STEEPER, folders, strict=True):
        source = tmp_path / f"{name}.csv"
        source.write_text("image,caption\n" + f"{name}.png,a photo\n" * 8)
        words = ("compare", "clip", "--data", str(source), "--test", str(source), *grid)
        assert main([*words, "--recipe.warmup", "2", "--out", folder]) == 0
    capsys.readouterr()
    asked = ("--frontier", "all", "--form", "power", "--bootstraps", "0", "--json")
    assert main(["scaling", *folders, *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["metric"] for each in found] == list(jobs.LAWS)
    for report in found:
        scale, exponent = jobs.LAWS[report["metric"]]
        assert [law["runs of"] for law in report["laws"]] == [
            "clip, clean",
            "clip, filtered",
            "clip, raw",
        ]
        for law in report["laws"]:
            steeper = jobs.STEEPER[law["runs of"].removeprefix("clip, ")]
            assert (law["runs"], law["frontier"]) == (5, 5)
            assert law["a"] == pytest.approx(-exponent - steeper)
            assert law["A"] == pytest.approx(scale * 0.5 ** (exponent + steeper))
        assert len(report["crossings"]) == 3
    assert main(["scaling", *folders, *asked, "--by", "data", "--metric", "miou"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["laws"][0]["runs of"].endswith("clean.csv")
    assert main(["scaling", *folders, str(tmp_path / "raw.csv")]) == 2
    assert "several paths are folders of runs, or of diptych compare" in capsys.readouterr().err
