"""From emotions and explanations to those of one's own pictures, on the command line."""

import json

import pytest

from diptych.data.sources import open_source

LM = ("--method.lm", "text:width=32:depth=1:heads=2", "--method.grid", "2", "--method.length", "60")
SHORT = ("--steps", "2", "--batch-size", "4", "--quiet", "--method.max_tokens", "4")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A table of one's own, a row a person, beside its pictures."""
    place = tmp_path_factory.mktemp("art")
    rows = ["image,emotion,explanation"]
    for at, sample in enumerate(open_source("paintings:count=6:size=32:people=2:seed=3")):
        sample.images["main"].decode().save(place / f"{at}.png")
        said = zip(sample.captions("emotion"), sample.captions("explanation"), strict=True)
        rows += [f"{at}.png,{emotion},{text}" for emotion, text in said]
        rows.append(rows[-1])  # two people who agree
    (place / "art.csv").write_text("\n".join(rows) + "\n")
    return place


def test_a_table_of_ones_own_gives_emotions_and_explanations(photos, diptych, tmp_path):
    run = tmp_path / "run"
    data = f"{photos}/art.csv"
    start = ("train", "sevlm", "--init", "tiny", "--data", data)
    called = diptych(*start, "--val", data, *LM, *SHORT, "--out", run)
    assert called.code == 0, called.err
    assert f"diptych generate {run} --images IMAGES" in called.out
    called = diptych("generate", run, "--images", photos / "0.png", "--json")
    assert called.code == 0, called.err
    [found] = json.loads(called.out)
    assert set(found) == {"key", "path", "text", "emotion", "explanation"}
    assert found["emotion"] in found["text"]
    called = diptych("generate", run, "sadness", "--images", photos / "0.png", "--json")
    assert called.code == 0, called.err
    assert set(json.loads(called.out)[0]) == {"key", "path", "text"}
    suite = ("--suite", "agreement", "--train", "paintings:count=8", "--json")
    called = diptych("evaluate", run, "--data", data, *suite)
    assert called.code == 0, called.err
    assert "agreement" in called.out


def test_bad_input_is_one_line(diptych, tmp_path):
    lexicon = tmp_path / "vad.txt"
    lexicon.write_text("calm\tmuch\tlittle\tsome\nso\t1\t2\t3\n")
    start = ("train", "sevlm", "--init", "tiny", "--data", "paintings:count=8:size=32", *LM, *SHORT)
    called = diptych(*start, "--method.lexicon", lexicon, "--out", tmp_path / "run")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "vad.txt:2: no word with its valence" in called.err
    called = diptych(*start, "--method.joint", " ", "--out", tmp_path / "run")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "the joint between emotion and explanation is empty" in called.err
    assert not (tmp_path / "run").exists()
