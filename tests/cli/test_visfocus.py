"""From pages to answers about one's own pages, on the command line."""

import json

import pytest

from diptych.data.sources import open_source

TOWERS = (
    *("--image-tower", "visfocus.swin:image_size=32:width=8:heads=2:depths=(1, 1, 1):window=4"),
    *("--text-tower", "text:width=32:depth=1:heads=2"),
)
PROMPT = ("--method.prompted", "[2,3]")
SHORT = ("--steps", "2", "--batch-size", "4", "--quiet", "--method.max_tokens", "3")
PAGES = "pages:count=12:kind=form:lines=2:width=64:height=32:length=3"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp("visfocus")
    source = open_source(PAGES)
    for at in range(2):
        source[at].images["main"].decode().save(place / f"{at}.png")
    return place


def test_a_run_reads_focuses_and_answers(photos, diptych, tmp_path):
    first = tmp_path / "pretrained"
    called = diptych("train", "visfocus", "--data", PAGES, *TOWERS, *PROMPT, *SHORT, "--out", first)
    assert called.code == 0, called.err
    run = tmp_path / "run"
    data = ("--data", f"questions={PAGES}", "--method.task", "answer", "--val", PAGES)
    called = diptych("train", "visfocus", "--init", first, *data, *PROMPT, *SHORT, "--out", run)
    assert called.code == 0, called.err
    assert f"diptych generate {run} 'A QUESTION' --images IMAGES" in called.out
    words = ("--strategy", "greedy", "--max-tokens", "3", "--json")
    for asked in (("what is rail?",), ()):
        called = diptych("generate", run, *asked, "--images", photos, *words)
        assert called.code == 0, called.err
        found = json.loads(called.out)
        assert [each["path"].rpartition("/")[2] for each in found] == ["0.png", "1.png"]
    called = diptych("generate", run, "what is it? " * 60, "--images", photos)
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "the language model reads 126 of a question; shorten it" in called.err
    data = ("--data", PAGES, "--suite", "answers", "--relaxed", "--json")
    called = diptych("evaluate", run, *data)
    assert called.code == 0, called.err
    assert {"exact", "relaxed"} <= set(json.loads(called.out)["answers"])
    called = diptych("embed", run, photos, "--out", tmp_path / "emb")
    assert called.code == 0, called.err


def test_bad_input_is_one_line_and_writes_nothing(diptych, tmp_path):
    run = tmp_path / "run"
    start = ("train", "visfocus", "--out", run, *SHORT)
    for options, told in (
        (("--data", PAGES, "--init", "tiny"), "start from none but a run of visfocus"),
        (("--data", f"pages={PAGES}", *TOWERS, *PROMPT), "unknown stream of visfocus 'pages'"),
        (("--data", PAGES, *TOWERS, "--method.prompted", "[4]"), "there are the stages 1 to 3"),
        (
            ("--data", PAGES, *TOWERS, *PROMPT, "--method.prompt", "tiny"),
            "tiny is no language model",
        ),
        (("--data", PAGES, "--image-tower", "vit:image_size=32:patch=8"), "visfocus.swin"),
        (
            ("--data", PAGES, *TOWERS, *PROMPT, "--tokenizer", "bpe:vocab_size=300"),
            "special=extra_id_0-extra_id_2",
        ),
    ):
        called = diptych(*start, *options)
        assert (called.code, called.err.count("\n")) == (2, 1), called.err
        assert told in called.err
        assert not run.exists()
