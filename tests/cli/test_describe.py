"""`diptych data describe`: from a writer to a source that reads its texts."""

import json

import pytest

from diptych.data.sources import open_source


def test_texts_of_classes_become_captions_of_a_source(diptych, tmp_path):
    out = tmp_path / "bank.json"
    called = diptych("data", "describe", "modalities", "--by", "world", "--each", 3, "--out", out)
    assert called.code == 0, called
    assert "24 classes" in called.out
    assert len(json.loads(out.read_text())) == 24
    assert json.loads((tmp_path / "bank.card.json").read_text())["texts"] == 72
    source = open_source(f"modalities:captioned=0.0:count=4:captions={out}")
    assert len(source[0].captions()) == 3
    again = diptych("data", "describe", "modalities", "--by", "world", "--each", 3, "--out", out)
    assert "answers asked for            0" in again.out.replace("│", " ")


def test_a_language_model_writes_and_its_answers_are_kept(diptych, tmp_path):
    ask = tmp_path / "ask.txt"
    ask.write_text("a sentence about {}")
    out = tmp_path / "lm.json"
    words = ("data", "describe", "modalities:modalities=ct", "--by", "tiny-lm", "--whole")
    called = diptych(*words, "--prompt", ask, "--out", out)
    assert called.code == 0, called
    assert len((tmp_path / "lm.answers.jsonl").read_text().splitlines()) >= 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "bank.txt", "--by", "world"), "texts are a .json file"),
        (("--out", "b.json"), "has no writer; name one with --by"),
        (("--out", "b.json", "--by", "world", "--images", "--of", "class"), "give one"),
        (("--out", "b.json", "--by", "world", "--texts", "caption"), "leave out --texts"),
        (("--out", "b.json", "--by", "templates"), "give them with --prompt"),
        (("--out", "b.json", "--by", "cmd:cat"), "is asked nothing"),
        (("--out", "b.json", "--by", "cmd:cat", "--prompt", "gone.txt"), "no file of text"),
        (("--out", "b.json", "--by", "tiny-lm", "--images"), "reads no images; leave out --images"),
        (("--out", "b.json", "--by", "world", "--rules", "x=1"), "goes with `data filter`"),
    ],
)
def test_what_is_missing_is_told(diptych, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    called = diptych("data", "describe", "modalities:count=2", *words)
    assert called.code == 2, called
    assert said in called.err
    assert not list(tmp_path.glob("b*.json"))
