"""From pages to an encoder of pages, and to a model that answers questions about them, on the command
line."""

import json

import pytest

from diptych.data.sources import open_source

PAGES = "pages:count=24:width=96:height=66:lines=3"
SHORT = ("--steps", "2", "--batch-size", "8", "--quiet", "--method.max_boxes", "9")
TOWER = ("--image-tower", "vit:image_size=32:patch=8:width=32:depth=1", "--embed-dim", "16")
TEACHER = ("--method.teacher", "layout:width=32:depth=1")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp("doco")
    source = open_source(PAGES)
    for at in range(2):
        source[at].images["main"].decode().save(place / f"{at}.png")
    return place


def test_pages_train_an_encoder_that_reads_pixels_alone(photos, diptych, tmp_path):
    run = tmp_path / "run"
    called = diptych("train", "doco", "--data", PAGES, *TOWER, *TEACHER, *SHORT, "--out", run)
    assert called.code == 0, called.err
    assert f"diptych evaluate {run} --data TEST --train" in called.out
    called = diptych("embed", run, photos, "--out", tmp_path / "emb")
    assert called.code == 0, called.err
    data = ("--data", f"{PAGES}:split=test", "--train", PAGES)
    called = diptych("evaluate", run, *data, "--suite", "words", "--json")
    assert called.code == 0, called.err
    [found] = [each for each in _results(called.out) if "unseen" in each]
    assert found["n"] > 24


def _results(out):
    """All mappings in the JSON that a command printed."""
    waiting = [json.loads(out)]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def test_a_language_model_is_tuned_to_answer_about_pages(photos, diptych, tmp_path):
    pytest.importorskip("rapidfuzz")
    run = tmp_path / "run"
    lm = ("--method.lm", "text:width=32:depth=1:heads=2", "--method.grid", "2")
    data = ("--data", f"train={PAGES}", "--data", f"instructions={PAGES}")
    long = ("--method.max_tokens", "3")
    called = diptych("train", "doco", *data, *TOWER, *TEACHER, *SHORT, *lm, *long, "--out", run)
    assert called.code == 0, called.err
    words = ("--strategy", "greedy", "--max-tokens", "4", "--json")
    called = diptych("generate", run, "what is the total?", "--images", photos, *words)
    assert called.code == 0, called.err
    assert len(json.loads(called.out)) == 2
    called = diptych("evaluate", run, "--data", PAGES, "--suite", "answers", "--anls", "--json")
    assert called.code == 0, called.err
    [found] = [each for each in _results(called.out) if "anls" in each]
    assert 0 <= found["anls"] <= 1


def test_bad_input_is_one_line(diptych, tmp_path):
    run = tmp_path / "run"
    start = ("train", "doco", *TOWER, *SHORT, "--out", run)
    rows = [
        {"image": "0.png", "words": [{"text": "rail", "box": [0.1, 0.1, 0.2, 0.1]}]},
        {"image": "1.png", "words": [{"text": "coal", "box": [0.5, 0.1, 0.2, 0.1]}]},
    ]
    source = open_source(PAGES)
    for at in range(2):
        source[at].images["main"].decode().save(tmp_path / f"{at}.png")
    table = tmp_path / "pages.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    called = diptych(*start, "--data", table)
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "its boxes are shares, 0 to 1, and not pixels; multiply" in called.err
    called = diptych(*start, "--data", PAGES, "--method.teacher", f"hf:{tmp_path}")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "the teacher cannot be loaded" in called.err
    called = diptych(*start, "--data", PAGES, "--data", f"instructions={PAGES}")
    assert called.code == 2
    assert "unknown stream of doco 'instructions'" in called.err
    assert not run.exists()
