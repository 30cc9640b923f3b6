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


@pytest.fixture(scope="module")
def infographics(tmp_path_factory):
    """Questions in the form of InfographicVQA, and what Textract reads on all of the pages but one."""
    place = tmp_path_factory.mktemp("infographics")
    for name in ("infographicsvqa_images", "infographicsvqa_ocr"):
        (place / name).mkdir()
    rows = []
    for at, sample in enumerate(open_source(PAGES)):
        image = sample.images["main"].decode()
        image.save(place / "infographicsvqa_images" / f"{at}.png")
        if at:
            words = [_word(box, image.size) for box in sample.boxes]
            path = place / "infographicsvqa_ocr" / f"{at}.json"
            path.write_text(json.dumps({"PAGE": [], "LINE": [], "WORD": words}))
        rows.append(
            {
                "questionId": at,
                "question": sample.captions("question")[0],
                "image_local_name": f"{at}.png",
                "ocr_output_file": f"{at}.json",
                "answers": sample.captions("answer")[:1],
            }
        )
    path = place / "infographicsVQA_train_v1.0.json"
    path.write_text(json.dumps({"dataset_name": "infographicVQA", "data": rows}))
    return path


def _word(box, size):
    x0, y0, x1, y1 = box.xyxy
    sides = {"Left": x0, "Top": y0, "Width": x1 - x0, "Height": y1 - y0}
    shares = {name: value / size[name in ("Top", "Height")] for name, value in sides.items()}
    return {"BlockType": "WORD", "Text": box.text, "Geometry": {"BoundingBox": shares}}


def test_infographics_with_files_of_ocr_train_all_stages(infographics, diptych, tmp_path):
    pages = open_source(PAGES)
    source = open_source(str(infographics))
    for at in (1, 5):
        assert [box.text for box in source[at].boxes] == [box.text for box in pages[at].boxes]
        found = [side for box in source[at].boxes for side in box.xyxy]
        drawn = [side for box in pages[at].boxes for side in box.xyxy]
        assert found == pytest.approx(drawn)
    run = tmp_path / "run"
    data = ("--data", f"train={infographics}", "--data", f"questions={infographics}")
    start = ("train", "visfocus", *data, *TOWERS, *PROMPT, *SHORT, "--out", run)
    called = diptych(*start, "--max-bad", "0.2")  # a page has no file of OCR
    assert called.code == 0, called.err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows if "loss" in row} == {"read", "lmpm", "answer"}


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
