"""The models that ship: they load by name, are small, and reach the scores that their cards
tell."""

import itertools

import pytest
import torch

import diptych
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.evaluation.suites.degeneration import report, words
from diptych.lab import tiny, tiny_lm, tiny_vlm
from diptych.methods.store import shipped


def test_all_ship_with_cards_and_are_small():
    assert set(shipped()) == {"tiny", "tiny-lm", "tiny-vlm"}
    for name, most in (("tiny", 6e6), ("tiny-lm", 3e6), ("tiny-vlm", 5e6)):
        folder = shipped()[name]
        assert {path.name for path in folder.iterdir()} == {
            "README.md",
            "model.json",
            "model.safetensors",
        }
        assert (folder / "model.safetensors").stat().st_size <= most


def card_rows(name):
    """The numbers of the card's first table, by the row's name."""
    lines = (shipped()[name] / "README.md").read_text(encoding="utf-8").splitlines()
    first = itertools.dropwhile(lambda line: not line.startswith("|"), lines)
    table = itertools.takewhile(lambda line: line.startswith("|"), first)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0]: row[1:] for row in rows}


def test_the_card_of_tiny_tells_scores_above_every_bar():
    rows = card_rows("tiny")
    for name, (probe, zero_shot) in tiny.BARS.items():
        reported = rows[name]
        assert float(reported[2]) >= zero_shot
        assert probe is None or float(reported[0]) >= probe


@pytest.fixture(scope="module")
def found():
    return tiny.scores(diptych.load("tiny"), train=500, count=240)


@pytest.mark.parametrize("name", tiny.BARS)
def test_tiny_reaches_its_scores_on_scenes_that_it_never_saw(found, name):
    """Fewer scenes than for the card, so the probes learn from less."""
    probe, zero_shot = tiny.BARS[name]
    assert found[name]["zero_shot"] >= zero_shot
    assert probe is None or found[name]["probe"] >= probe


# ---- the language model

PROMPTS = [
    "run, hurry: move fast on foot", "paint: cover a wall with colour", "sing: make music with the voice,",
    "bake: cook bread or cakes in the dry heat of", "guard: keep watch over a house so that no one",
    "row: move a boat over the water with long", "knit: make cloth from wool with two",
    "climb: go up a hill, a ladder or a tree with",
]  # fmt: skip


def test_tiny_lm_repeats_itself_under_greedy_decoding_and_not_where_it_is_sampled():
    model = diptych.load("tiny-lm")
    found = {
        name: report(
            [words(text) for text in model.generate(PROMPTS, max_tokens=64, min_tokens=64, **how)]
        )["diversity"]
        for name, how in (
            ("greedy", {"strategy": "greedy"}),
            ("sample", {"strategy": "sample", "top_p": 0.95}),
        )
    }
    assert found["sample"] > 0.7
    assert found["greedy"] < 0.5 * found["sample"]


def test_the_card_of_tiny_lm_tells_diversities_within_the_bars():
    lines = (shipped()["tiny-lm"] / "README.md").read_text(encoding="utf-8").splitlines()
    reported = {
        line.split()[0]: float(line.split("diversity ")[1].split(",")[0])
        for line in lines
        if "diversity 0" in line
    }
    assert reported[tiny_lm.GREEDY] <= tiny_lm.BARS[tiny_lm.GREEDY] * reported["text"]
    assert reported[tiny_lm.SAMPLE] >= tiny_lm.BARS[tiny_lm.SAMPLE] * reported["text"]


def test_tiny_lm_answers_questions_about_a_description(monkeypatch):
    """The right answer is the most probable of the choices."""
    monkeypatch.setattr(tiny_lm, "ASKED", tiny_lm.ASKED.replace("count=500", "count=60"))
    model = diptych.load("tiny-lm")
    found = tiny_lm.reading(model)
    assert found["chosen"] >= tiny_lm.LEAST_READ
    assert found["chance"] < 0.35


def test_tiny_lm_knows_what_the_worlds_say():
    found = evaluate(
        diptych.load("tiny-lm"),
        open_source("scenes:split=test:count=100"),
        ["perplexity"],
        role="caption",
    )
    assert found["perplexity"]["perplexity"] < 0.01 * found["perplexity"]["chance_perplexity"]


# ---- the vision-language model


def test_the_card_of_tiny_vlm_tells_more_than_the_prior():
    exact, blind, prior, _ = map(
        float, (value.replace(",", "") for value in card_rows("tiny-vlm")["all"])
    )
    assert exact >= tiny_vlm.LEAST
    assert max(blind, prior) < 0.6 * exact


def test_tiny_vlm_answers_questions_about_scenes_that_it_never_saw(monkeypatch):
    monkeypatch.setattr(tiny_vlm, "ASKED", tiny_vlm.ASKED.replace("count=500", "count=60"))
    monkeypatch.setattr(tiny_vlm, "KNOWN", tiny_vlm.KNOWN.replace("count=5000", "count=200"))
    found = tiny_vlm.scores(diptych.load("tiny-vlm"))["all"]
    assert found["exact"] >= tiny_vlm.LEAST - 0.05  # fewer questions than for the card
    assert found["blind"] < 0.45
    assert found["prior"] < 0.45


def test_tiny_vlm_reads_the_tower_of_tiny():
    model = diptych.load("tiny-vlm")
    source = open_source("scenes:split=test:count=2")
    images = [source[at].images["main"] for at in range(2)]
    assert torch.equal(model.embed_images(images), diptych.load("tiny").embed_images(images))
    [answer] = model.generate(images[:1], ["what is the ground?"])
    assert answer == diptych.load("tiny-vlm").generate(images[:1], ["what is the ground?"])[0]
    assert answer
