"""From a vision-language model that writes to one that embeds one's own images and texts, on the command
line."""

import json

import pytest

from diptych.data.sources import open_source

SHORT = ("--steps", "2", "--batch-size", "8", "--quiet")
SCENES = "scenes:count=24:number=2:same=0:seed=9:size=32"
DATA = f"{SCENES}:texts=caption+long"
GRID = ("--method.grid", "2")
SMALL = (*GRID, "--method.role", "caption+long*", "--method.tune", "lora:r=2:layers=q+v")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp("photos")
    for at, sample in enumerate(open_source(f"{SCENES}:texts=caption")):
        if at < 3:
            sample.images["main"].decode().save(place / f"{at}.png")
    return place


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def aligned(runs, diptych):
    """A run that reads images with tiny-lm."""
    out = runs / "aligned"
    if not out.exists():
        lm = ("--method.lm", "tiny-lm", "--method.tune", "none", *GRID)
        data = ("--data", f"{SCENES}:texts=caption")
        called = diptych("train", "cg_vlm", "--init", "tiny", *data, *lm, *SHORT, "--out", out)
        assert called.code == 0, called.err
    return out


@pytest.fixture
def trained(aligned, runs, diptych):
    out = runs / "embeds"
    if not out.exists():
        start = ("train", "vladva", "--init", aligned, "--data", DATA, "--method.lm", "tiny-lm")
        called = diptych(*start, *SMALL, *SHORT, "--chunk", "64", "--val", DATA, "--out", out)
        assert called.code == 0, called.err
        assert f"diptych embed {out} SOURCE --out EMB" in called.out
    return out


def test_a_run_embeds_retrieves_and_writes(trained, photos, runs, diptych):
    line = [json.loads(row) for row in (trained / "metrics.jsonl").read_text().splitlines()]
    step = next(row for row in line if "loss" in row)
    assert {"loss/contrast", "loss/predict", "scale", "short", "long"} <= step.keys()
    assert step["long"] > 0
    called = diptych("evaluate", trained, "--data", DATA, "--suite", "retrieval", "--json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["retrieval"]["n"] == 24
    called = diptych("embed", trained, photos, "--out", runs / "emb")
    assert called.code == 0, called.err
    called = diptych("search", runs / "emb", "a red circle", "--json")
    assert called.code == 0, called.err
    words = ("--strategy", "greedy", "--max-tokens", "4", "--json")
    called = diptych("generate", trained, "--images", photos, *words)
    assert called.code == 0, called.err
    assert len(json.loads(called.out)) == 3
    assert diptych("generate", trained, "what is it?", "--images", photos, *words).code == 0
    assert diptych("info", trained).code == 0


def test_prompts_are_ordered(aligned, runs, diptych):
    file = runs / "prompts.txt"
    file.write_text("in one word:\nthe {} shows\nsummarize this {}:\n")
    how = ("--candidates", file, "--count", "6")
    called = diptych("prompts", aligned, f"{SCENES}:texts=caption", *how, "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert found["bad"] == {}
    for side in ("image", "text"):
        assert {row["prompt"] for row in found[side]} == {
            "in one word:",
            f"the {side} shows",
            f"summarize this {side}:",
        }
        places = [row["place"] for row in found[side]]
        assert places == sorted(places)
    called = diptych("prompts", aligned, f"{SCENES}:texts=caption", *how, "--side", "text")
    assert called.code == 0, called.err
    assert f"--method.text_prompt '{found['text'][0]['prompt']}'" in called.out
    assert "image_prompt" not in called.out


def test_bad_input_is_one_line(aligned, runs, refused):
    start = ("train", "vladva", "--data", DATA, *SMALL, *SHORT, "--out", runs / "none")
    assert "has no language model; start from a RUN" in refused(*start, "--init", "tiny")
    given = ("--method.lm", "tiny-lm")
    assert "--method.train_adapter" in refused(*start, "--init", "tiny", *given)
    assert "with --method.lm tiny-lm" in refused(*start, "--init", aligned)
    rank = ("--method.tune", "lora:layers=query")
    assert "no linear layer 'query'" in refused(*start, "--init", aligned, *given, *rank)
    long = ("--method.n_ctx", "200")
    assert "lower --method.n_ctx" in refused(*start, "--init", aligned, *given, *long)
    assert not (runs / "none").exists()
    assert "needs a model with summaries, which tiny has not" in refused("prompts", "tiny", DATA)
