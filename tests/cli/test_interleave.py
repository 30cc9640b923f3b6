"""`diptych data interleave`: films of a world become documents that cosmo is trained on."""

import pytest

from diptych.data.sources import open_source

FILMS = "scenes:film=4:count=6:number=1:size=32"
SETTINGS = ("--join", "3", "--cuts", "min_seconds=0.2")


def test_films_become_documents_that_cosmo_trains_on(diptych, tmp_path):
    out = tmp_path / "d.tsv"
    said = diptych("data", "interleave", FILMS, "--by", "templates", *SETTINGS, "--out", out).out
    assert "facts of texts that are true" in said
    assert "100.0%" in said
    assert len(open_source(str(out))) == 2
    run = tmp_path / "run"
    diptych(
        "train", "cosmo", "--init", "tiny", "--method.lm", "tiny-lm", "--method.tokens", 2, "--method.depth", 1,
        "--data", f"films={out}:frames=2", "--steps", 1, "--batch-size", 2, "--out", run,
    )  # fmt: skip
    assert (run / "model.safetensors").is_file()


def test_a_language_model_writes_and_a_model_compares(diptych, tmp_path):
    (tmp_path / "ask.txt").write_text("{caption}.")
    out = tmp_path / "d.tsv"
    rules = "min_words=1:repeats=None:min_clips=1:similarity=-1"
    diptych(
        "data", "interleave", FILMS, "--by", "tiny-lm", "--prompt", tmp_path / "ask.txt", *SETTINGS,
        "--rules", rules, "--model", "tiny", "--frames", 2, "--out", out,
    )  # fmt: skip
    assert out.with_suffix(".answers.jsonl").is_file()
    assert len(open_source(str(out))) >= 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--out", "d.jsonl", "--by", "templates"), "are a .tsv file"),
        (("--out", "d.tsv"), "has no writer"),
        (("--out", "d.tsv", "--by", "templates", "--cuts", "fast=1"), "unknown option"),
        (("--out", "d.tsv", "--by", "templates", "--captions", "tiny-lm"), "reads no images"),
        (("--out", "d.tsv", "--by", "templates", "--regions", "tiny-lm"), "is a model"),
        (("--out", "d.tsv", "--by", "templates", "--rules", "similarity=0.2"), "go together"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(
    refused, tmp_path, monkeypatch, options, problem
):
    monkeypatch.chdir(tmp_path)
    assert problem in refused("data", "interleave", FILMS, *options)
    assert not list(tmp_path.iterdir())
