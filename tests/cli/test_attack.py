"""`diptych attack`: a change of one model, its success on that model and another, and what it
writes."""

import json

import pytest
from tests.cli.helpers import TINY

from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.methods.store import load

SCENES = "scenes:number=1:size=32:count=16:drop=0:texts=caption:seed=5"


@pytest.fixture(scope="module")
def change(tmp_path_factory):
    """A change of `tiny` by random signs."""
    from diptych.cli import main

    out = tmp_path_factory.mktemp("change") / "run"
    words = ("train", "c_pgc", "--init", "tiny", "--data", SCENES, "--quiet", "--out", str(out))
    assert main([*words, "--method.by", "noise", "--method.eps", "40"]) == 0
    return out


def test_a_run_tells_its_word_and_what_to_do_next(change, diptych):
    description = json.loads((change / "model.json").read_text("utf-8"))
    assert description["kept"]["word"] == load(change).word
    assert load(change).eps == 40


def test_success_rates_of_several_victims(change, diptych):
    words = ("attack", change, "--data", SCENES, "--victim", f"{change},tiny")
    called = diptych(*words)
    assert called.code == 0, called
    assert "of what was right" in called.out
    assert "t2i_asr10" in called.out
    assert called.out.count("both") == 2
    found = json.loads(diptych(*words, "--json").out)
    one, other = found.values()
    assert one["by_changed"] == other["by_changed"], "the run holds tiny itself"
    assert one["largest_change"] == 40
    assert 0 < one["i2t_asr1"] <= 1


def test_what_is_written_is_what_victims_see(change, diptych, tmp_path):
    called = diptych("attack", change, "--data", SCENES, "--out", tmp_path / "changed")
    assert called.code == 0, called
    assert "16 changed samples in 1 shards" in called.out
    changed = open_source(f"{tmp_path / 'changed'}/*.tar")
    source = open_source(SCENES)
    assert changed[3].key == source[3].key
    assert changed[3].labels == source[3].labels
    assert load(change).word in changed[3].captions()[0].split()
    victim = load("tiny")
    pixels, _ = load(change).apply([source[3].images["main"]])
    assert victim.embed_images([changed[3].images["main"]]).equal(victim.embed_images(pixels))
    retrieved = evaluate(victim, changed, ["retrieval"])["retrieval"]
    attacked = evaluate(load(change), source, ["attack"])["attack"]
    assert retrieved["i2t_r1"] == attacked["i2t_r1_after"]


def test_generators_are_trained_and_transfer_to_another_model(train, diptych, tmp_path):
    for seed in (0, 1):
        assert train(SCENES, tmp_path / f"{seed}", "--seed", seed, "--steps", 8).code == 0
    called = diptych(
        *("train", "c_pgc", "--init", tmp_path / "0", "--steps", 2, "--batch-size", 2),
        *("--data", f"train={SCENES}", "--data", f"targets={SCENES}", "--quiet"),
        *("--method.eps", 30, "--method.captions", 1, "--out", tmp_path / "run"),
    )
    assert called.code == 0, called
    assert f"diptych attack {tmp_path / 'run'} --data" in called.out + called.err
    words = ("attack", tmp_path / "run", "--data", SCENES, "--victim", tmp_path / "1", "--json")
    [found] = json.loads(diptych(*words).out).values()
    assert 0 < found["largest_change"] <= 30


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "has no model"),
        (("runs/x",), "has no data"),
        (("tiny", "--data", SCENES), "needs a model with apply, which tiny has not"),
        (("{run}", "--data", SCENES, "--victim", "tiny-lm"), "a victim needs a model with"),
        (("{run}", "--data", SCENES, "--task", "captions"), "a victim needs a model with generate"),
        (("{run}", "--data", SCENES, "--out", "x", "--victim", "tiny"), "--victim is of measuring"),
        (("{run}", "--data", SCENES, "--role", "caption,", "--task", "answers"), "answers are to"),
    ],
)
def test_what_does_not_fit_is_told(change, refused, words, message):
    assert message in refused("attack", *(word.format(run=change) for word in words))


def test_a_surrogate_of_images_alone_is_refused(diptych, refused, tmp_path):
    towers = [word for word in TINY if not word.startswith("--text")]
    out = tmp_path / "images"
    assert diptych("train", "simclr", "--data", SCENES, *towers, "--out", out).code == 0
    words = ("train", "c_pgc", "--init", out, "--data", SCENES, "--method.by", "noise")
    assert "has no text tower" in refused(*words, "--out", tmp_path / "run")
