"""The recipe of tiny-lm: its size, a few steps of it on a dictionary of our own wording, and its
scores and bars."""

import gzip
import json

import pytest
import torch

from diptych.data.questions import answered
from diptych.data.sources import open_source
from diptych.data.tokenizers import train_bpe
from diptych.lab import tiny_lm
from diptych.methods.make import Make
from diptych.methods.registry import method_class
from diptych.methods.store import load

WORDS = ["lamp", "fox", "bird", "tree", "house", "sea", "sky", "stone", "door", "road"]


def test_it_is_small_enough_to_ship():
    """At most 3 MB in float16, with a vocabulary as large as the tokenizer may get."""
    config = tiny_lm.config()
    tokenizer = train_bpe(["a red cat"], 300, 128)
    tokenizer.vocab_size = 4096
    with torch.device("meta"):
        make = Make(
            image=config.image_tower, text=config.text_tower, embed_dim=0, tokenizer=tokenizer
        )
        method = method_class(config.method)(
            method_class(config.method).configure(config.config), make
        )
    assert sum(parameter.numel() for parameter in method.parameters()) * 2 <= 3_000_000
    assert "context=128" in config.tokenizer
    assert config.recipe.steps == tiny_lm.STEPS


def rows(spec):
    source = open_source(spec)
    return [source[at] for at in range(len(source))]


@pytest.fixture
def dictionary(tmp_path, monkeypatch):
    """A WordNet of eight verbs with long definitions, in the places that the recipe reads."""
    rows = [
        {
            "id": f"v{number:08d}",
            "words": [f"{WORDS[number % 10]}{number}"],
            "gloss": " ".join(
                WORDS[(number * 3 + place * (1 + number % 4)) % 10] for place in range(30)
            ),
        }
        for number in range(8)
    ]
    with gzip.open(tmp_path / "synsets.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    here = f"wordnet:{tmp_path}:page=3"
    asked = tiny_lm.ASKED.replace("count=500", "count=3")
    monkeypatch.setattr(tiny_lm, "DATA", f"scenes:count=20,sentences:count=20,{asked},{here}")
    monkeypatch.setattr(tiny_lm, "ASKED", asked)
    monkeypatch.setattr(tiny_lm, "PROMPTS", f"{here}:split=train")
    held = {
        name: (spec.replace("count=500", "count=5"), role)
        for name, (spec, role) in tiny_lm.HELD_OUT.items()
    }
    monkeypatch.setattr(tiny_lm, "HELD_OUT", {**held, "wordnet": (here, "entry")})


def test_the_recipe_runs_resumes_and_is_scored(dictionary, tmp_path):
    [run] = tiny_lm.train(tmp_path / "run", steps=2, batch_size=4)
    model = load(run)
    assert (
        load(tiny_lm.train(tmp_path / "run", steps=2, batch_size=4)[-1]).identity == model.identity
    )
    found = tiny_lm.scores(model)
    assert set(found["by_strategy"]) == {"text", "greedy", "beam", "sample:top_p=0.95"}
    assert set(found["perplexity"]) == {"scenes", "sentences", "wordnet"}
    lines = tiny_lm.table(found).splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("text ")
    assert lines[-1].startswith("reading ")
    assert 0 <= found["reading"]["chosen"] <= 1
    assert found["reading"]["n"] == sum(len(answered(each)) for each in rows(tiny_lm.ASKED))
    json.dumps(found)


@pytest.mark.parametrize(
    ("greedy", "sample", "verdict"),
    [(0.1, 0.9, True), (0.5, 0.9, False), (0.1, 0.5, False), (0.23, 0.65, True)],
)
def test_the_bars_are_shares_of_the_texts_own_diversity(greedy, sample, verdict):
    rows = {"text": 0.8, tiny_lm.GREEDY: greedy, tiny_lm.SAMPLE: sample}
    assert (
        tiny_lm.degenerates(
            {"by_strategy": {name: {"diversity": value} for name, value in rows.items()}}
        )
        is verdict
    )
