"""From captions and questions to answers about one's own images, on the command line."""

import json

import pytest

from diptych.data.sources import open_source

LM = ("--method.lm", "text:width=32:depth=1:heads=2", "--method.grid", "2")
SHORT = ("--steps", "2", "--batch-size", "8", "--quiet", "--method.max_tokens", "3")
SCENES = "scenes:count=24:number=2:same=0:seed=9:size=32"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp("cg_vlm")
    for at, sample in enumerate(open_source(f"{SCENES}:texts=caption")):
        if at < 3:
            sample.images["main"].decode().save(place / f"{at}.png")
    return place


def test_a_run_is_aligned_and_instructed_and_answers(photos, diptych, tmp_path):
    first = tmp_path / "aligned"
    start = ("train", "cg_vlm", "--init", "tiny")
    called = diptych(*start, "--data", f"{SCENES}:texts=caption", *LM, *SHORT, "--out", first)
    assert called.code == 0, called.err
    run = tmp_path / "run"
    called = diptych(
        "train",
        "cg_vlm",
        "--init",
        first,
        "--data",
        f"instructions={SCENES}:texts=question",
        *("--method.fraction", "0.5", "--method.grid", "2"),
        *SHORT,
        "--out",
        run,
    )
    assert called.code == 0, called.err
    assert f"diptych generate {run} 'A QUESTION' --images IMAGES" in called.out
    words = ("--strategy", "greedy", "--max-tokens", "4", "--json")
    called = diptych("generate", run, "what is the ground?", "--images", photos, *words)
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert [each["path"].rpartition("/")[2] for each in found] == ["0.png", "1.png", "2.png"]
    data = ("--data", f"{SCENES}:texts=question")
    called = diptych("evaluate", run, *data, "--suite", "answers,selectivity", "--json")
    assert called.code == 0, called.err
    assert diptych("info", run).code == 0


def test_bad_input_is_one_line(diptych, tmp_path):
    start = ("train", "cg_vlm", "--init", "tiny", "--out", tmp_path / "run", *SHORT)
    data = ("--data", f"{SCENES}:texts=caption")
    called = diptych(*start, *data, "--method.lm", "tiny")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "lm=tiny is no language model" in called.err
    called = diptych(*start, *data, "--method.grid", "9")
    assert called.code == 2
    assert "8 x 8 of them, which cannot be averaged to 9 x 9" in called.err
    called = diptych(*start, "--data", f"instruction={SCENES}:texts=question")
    assert called.code == 2
    assert "unknown stream of cg_vlm 'instruction'" in called.err
    assert not (tmp_path / "run").exists()
