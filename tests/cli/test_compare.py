"""`diptych compare`: a table that goes on, and a folder that shows its own."""

import json

import pytest
from tests.lab import jobs

from diptych.lab.compare import cell

GIVEN = (
    "--data",
    "glyphs:design=noto",
    "--test",
    "glyphs:split=val",
    "--budget",
    "1000",
    "--seeds",
    "0,1",
)


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    monkeypatch.setattr(cell, "run", jobs.measured)
    monkeypatch.chdir(tmp_path)


def test_methods_are_compared_shown_and_shown_again(diptych, tmp_path):
    called = diptych("compare", "clip", "siglip", *GIVEN, "--out", "two", "--jobs", 2)
    assert called.code == 0, called
    for part in (
        "trained on glyphs:design=noto, measured on glyphs:split=val",
        "t2i_r1, over the first",
        "+0.0500 ± ",
        "two/report.html is the page",
        "1,000",
    ):
        assert part in called.out, part
    assert "4 of 4: " in called.err
    assert (tmp_path / "two" / "report.html").exists()
    again = diptych("compare", "two")
    assert (again.code, again.err) == (0, "")
    assert again.out == called.out
    shown = diptych("compare", "two", "--metric", "mrr").out
    assert "mrr, over the first" in shown
    assert "t2i_r1" not in shown
    rows = json.loads(diptych("compare", "two", "--json").out)
    assert rows == [
        json.loads(line) for line in (tmp_path / "two" / "results.jsonl").read_text().splitlines()
    ]


def test_towers_and_recipe_are_set_for_all_methods(diptych, tmp_path):
    words = ("--image-tower", "vit:width=64", "--tokenizer", "clip", "--optimizer", "adamw", "--lr", "1e-3",
             "--recipe.weight_decay", "0.2", "--recipe.betas", "[0.9,0.99]")  # fmt: skip
    called = diptych("compare", "clip", "siglip", *GIVEN, *words, "--out", "two", "--jobs", 2)
    assert called.code == 0, called
    assert "between the methods differ" not in called.err
    head = json.loads((tmp_path / "two" / "compare.json").read_text())
    assert head["common"] == {
        "image_tower": "vit:width=64",
        "tokenizer": "clip",
        "recipe": {"optimizer": "adamw", "lr": 0.001, "weight_decay": 0.2, "betas": [0.9, 0.99]},
    }
    again = diptych("compare", "clip", "siglip", *GIVEN, *words, "--out", "two")
    assert again.code == 0, again
    other = diptych("compare", "clip", "siglip", *GIVEN, "--lr", "0.5", "--out", "two")
    assert other.code == 2
    assert "compares with common" in other.err


def test_what_differs_is_told_before_and_below(diptych):
    called = diptych(
        "compare", "clip", "siglip:lr=0.5:batch_size=64", *GIVEN, "--out", "two", "--jobs", 2
    )
    reported = next(
        line for line in called.err.splitlines() if "between the methods differ" in line
    )
    assert reported.startswith("between the methods differ: lr, batch size; --image-tower, ")
    assert "Nothing but the method differs." in called.out  # these rows are all alike


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["no method", "diptych list"]),
        (["clip"], ["no data", "--data"]),
        (["clip", "--data", "glyphs"], ["nothing to measure on", "--test"]),
        (["clip", "--data", "glyphs", "--test", "glyphs"], ["no budget", "--budget 50000"]),
        (
            ["clip", "--data", "glyphs", "--test", "glyphs", "--budget", "10"],
            ["no place to write", "--out DIR"],
        ),
        (["clpi", *GIVEN, "--out", "x"], ["unknown method 'clpi'", "did you mean 'clip'"]),
        (["clip", "clip", *GIVEN, "--out", "x"], ["at least one method, and each once"]),
        (["clip", *GIVEN, "--sizes", "big", "--out", "x"], ["--sizes 'big'", "numbers"]),
        (["clip", *GIVEN, "--sizes", "-1", "--out", "x"], ["the size -1 is not above 0"]),
        (
            ["clip", *GIVEN, "--suite", "retrieva", "--out", "x"],
            ["unknown suite 'retrieva'", "'retrieval'"],
        ),
        (["clip", *GIVEN, "--jobs", "0", "--out", "x"], ["--jobs is 0"]),
        (
            ["clip", *GIVEN, "--bugdet", "3", "--out", "x"],
            ["'--bugdet'", "did you mean '--budget'"],
        ),
    ],
    ids=lambda value: " ".join(value[:1] + value[-4:-2]) if isinstance(value, list) else None,
)
def test_bad_input_is_told_in_one_line(refused, tmp_path, words, parts):
    message = refused("compare", *words)
    for part in parts:
        assert part in message
    assert not (tmp_path / "x").exists()
