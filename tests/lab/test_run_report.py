"""The report of a training run."""

import json

import pytest
from tests.lab.helpers import check

from diptych.errors import InputError
from diptych.front.training import train
from diptych.lab.run_report import HITS, page, write

NASTY = "<b>&\"'"


def test_a_page_of_every_part_is_well_formed_and_leaves_out_what_is_no_number():
    validations = [
        {
            "event": "validation",
            "done": done,
            "val/t2i_r1": value,
            "val/median": 3.0,
            "seconds": 9.0,
        }
        for done, value in ((-1, 0.1), (3, 0.25))
    ]
    steps = [
        {
            "done": at,
            "loss": loss,
            f"loss/{NASTY}": 1.0,
            "lr": 1e-3,
            "samples": 8,
            "seconds": at / 4,
        }
        for at, loss in enumerate([3.0, "nan", 2.0, 1.0])
    ]
    selected = {"event": "selected", "done": 3, "epoch": 0, "val/t2i_r1": 0.25, "val/median": 3.0}
    config = {"method": NASTY, "data": {"train": NASTY}, "init": NASTY, "adapt": "lora:r=8"}
    html = page(config, [validations[0], *steps, validations[1], selected])
    text = check(html).text
    assert NASTY not in html
    for shown in (
        "0.100 at step 0",
        "0.250",
        "The model is that of epoch 1",
        "lora:r=8",
        "4 steps",
    ):
        assert shown in text
    assert html.count("<svg viewBox") >= 5  # of losses, terms, rate, speed and validation


def test_a_run_without_validation_shows_its_losses_alone():
    html = page(
        {"method": "clip", "data": {"train": "a"}}, [{"done": 0, "loss": 1.0, "seconds": 0}]
    )
    assert "Validation" not in html
    assert "Rate and speed" not in html


def test_it_searches_with_the_start_and_the_end_and_is_written_again(pairs_csv, tmp_path):
    out = tmp_path / "run"
    train(
        "clip",
        str(pairs_csv),
        out,
        val=str(pairs_csv),
        init="tiny",
        steps=2,
        batch_size=8,
        quiet=True,
    )
    html = (out / "report.html").read_text("utf-8")
    assert html.count(">before</div>") == html.count(">after</div>") == 6
    assert html.count("<figure") == 2 * 6 * HITS
    (out / "report.html").unlink()
    assert write(out).read_text("utf-8") == html
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {line["samples"] for line in lines if "loss" in line} == {8}


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no run, which a report shows; name the folder"):
        write(tmp_path)
