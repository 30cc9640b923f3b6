"""`diptych estimate`: what it prints, what it is told, and the table in the docs."""

import json
import re
import time
from pathlib import Path

import pytest

from diptych.cli import main, parse
from diptych.cli.estimate import _number
from diptych.methods.registry import cards, method_class

SMALL = ("estimate", "simcse", "--preset", "small", "--hardware", "8xH100")
DOCS = Path(__file__).parents[2] / "docs" / "estimate.md"


def as_json(capsys, *words: str):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_takes_long_is_told(capsys, monkeypatch):
    monkeypatch.setattr("diptych.cli._screen.PATIENCE", 0.01)
    monkeypatch.setattr("diptych.cli.estimate._row", lambda *_: {"seconds": time.sleep(0.2)})
    assert main([*SMALL, "--json"]) == 0
    assert capsys.readouterr().err == "counting the operations of simcse …\n"


def test_a_method_is_estimated_with_its_layout(capsys):
    assert main([*SMALL, "--samples", "1M", "--price", "2"]) == 0
    out = capsys.readouterr().out
    assert "8 devices, a whole model on each (DDP)" in out
    assert "train simcse --preset small" in out
    assert re.search(r"cost +\d+ at 2 a device and hour", out)
    assert "assumes 40% of the peak" in out


def test_without_samples_there_is_a_rate_and_no_time(capsys):
    row = as_json(capsys, *SMALL)
    assert row["samples"] is row["hours"] is row["cost"] is None
    assert row["samples_a_second"] > 0


def test_time_and_cost_follow_from_the_samples_and_the_share_of_the_peak(capsys):
    row = as_json(capsys, *SMALL, "--samples", "64M", "--mfu", "0.2", "--price", "3")
    assert row["hours"] == pytest.approx(64e6 / row["samples_a_second"] / 3600)
    assert row["cost"] == pytest.approx(3 * 8 * row["hours"])
    faster = as_json(capsys, *SMALL, "--samples", "64M", "--mfu", "0.4")
    assert faster["hours"] == pytest.approx(row["hours"] / 2)


def test_the_command_is_one_that_train_takes(capsys):
    row = as_json(capsys, *SMALL, "--batch-size", "4096", "--precision", "bfloat16")
    launcher, words = row["command"].split(" -m diptych ")
    assert launcher == "torchrun --nproc_per_node 8"
    args = parse([*words.split(), "--data", "x.txt", "--out", "x"])
    assert args["recipe.batch_size"] == 4096


@pytest.mark.parametrize(
    ("text", "number"), [("400M", 4e8), ("1.2b", 1.2e9), ("20k", 2e4), ("7", 7)]
)
def test_samples_are_read(text, number):
    assert _number(text) == number


def test_the_table_in_the_docs_has_each_method_with_a_paper_preset_and_its_numbers(capsys):
    rows = {
        cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `") and len(cells := line.strip("|").split("|")) == 8
    }
    trained = [name for name, card in cards().items() if card.kind != "analysis"]
    assert set(rows) == {name for name in trained if "paper" in method_class(name).presets}
    for name in ("regress", "hydra"):
        row = as_json(capsys, "estimate", name, "--hardware", "8xH100")
        cells = rows[name]
        assert cells[0] == f"{row['parameters'] / 1e6:,.1f}"
        assert cells[1] == f"{row['gflops_a_sample']:,.1f}"
        assert cells[4] == f"{row['memory_bytes'] / 1e9:.1f}"
        assert cells[5] == f"{row['samples_a_second']:,.0f}"
