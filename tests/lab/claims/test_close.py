"""CLOSE's claim asks what it says: one encoder with a gap, equal texts and steps, and arms that
differ in the noise."""

from collections import Counter
from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, best
from diptych.lab.claims import close

TRAINED = ("w02", "w04", "w16", "w32", "mean_shift", "random_shift")


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """What each arm on captions begins, by name."""
    found = {}

    def run(config, folder):
        images = config.config.get("train_on") == "images"
        found[("images" if images else "w0") if name == "bounds" else name] = config

    monkeypatch.setattr(close, "run", run)
    monkeypatch.setattr(close, "load", lambda folder: None)
    monkeypatch.setattr(close, "measure", lambda model, trial: {"facts": 0.4, "texts": 0.5})
    prelude = {"texts": "texts.jsonl", "pairs": "scenes", "task": "scenes", "clip": "tiny"}
    trial = Trial(seed=3, folder=tmp_path, prelude=prelude)
    for name in TRAINED:
        assert close.claim.arms[name](trial)["own"] == 0.5
    name = "bounds"
    both = close.bounds(trial)
    assert (both["w0"]["own"], both["images"]["own"]) == (0.5, 0.4)
    return found


def test_halfway_is_the_mean_of_no_noise_and_images(monkeypatch):
    facts = iter((0.2, 0.6))
    monkeypatch.setattr(
        close, "written", lambda noise, **config: lambda trial: {"facts": next(facts)}
    )
    assert close.bounds(None)["halfway"]["facts"] == pytest.approx(0.4)


def test_arms_differ_in_the_noise_the_layer_and_what_is_read_alone(begun):
    free = ("noise", "train_on", "gap")
    rates = {name: config.recipe.lr for name, config in begun.items()}
    same = {
        str(
            replace(
                config,
                data={},
                config={k: v for k, v in config.config.items() if k not in free},
                recipe=replace(config.recipe, lr=1.0),
            )
        )
        for config in begun.values()
    }
    assert len(same) == 1
    assert rates == dict.fromkeys(begun, best(close.RATES["w04"])) | {
        "images": best(close.RATES["images"])
    }
    layers = {
        name: {k: v for k, v in config.config.items() if k in free[1:]}
        for name, config in begun.items()
    }
    assert {name: options for name, options in layers.items() if options} == {
        "images": {"train_on": "images"},
        "mean_shift": {"gap": "mean"},
        "random_shift": {"gap": "random:scale=0.5"},
    }
    assert {name for name, config in begun.items() if "scenes" in config.data.values()} == {
        "images",
        "mean_shift",
    }


def test_noise_has_the_length_that_it_has_at_768_dimensions(begun):
    lengths = {name: config.config["noise"] * close.WIDTH**0.5 for name, config in begun.items()}
    assert 2 * lengths["w04"] == pytest.approx(2.217, abs=1e-3)  # .08, as published
    assert {name: round(length / 768**0.5, 4) for name, length in lengths.items()} == {
        "w0": 0,
        "w02": 0.02,
        "w04": 0.04,
        "w16": 0.16,
        "w32": 0.32,
        "images": 0,
        "mean_shift": 0,
        "random_shift": close.TUNED,
    }


def test_entailment_asks_statements_and_answers_whether_they_follow():
    source = close.Entailment(open_source(f"{close.SCENES}:{close.ASKED}:seed=3:count=20"))
    labels = Counter(
        text.text for sample in source for text in sample.texts if text.role == "answer"
    )
    assert set(labels) == {"entailment", "neutral", "contradiction"}
    roles = [text.role for text in source[0].texts if text.role != "caption"]
    assert roles[:2] == ["question", "answer"]


def test_the_name_of_news_is_in_the_article_and_in_the_caption():
    source = close.News(open_source(f"{close.SCENES}:{close.ALL}:seed=3:count=20"))
    names = set()
    for sample in source:
        [caption] = sample.captions()
        [article] = sample.captions("article")
        name = caption.partition(":")[0]
        assert name in article.split()
        names.add(name)
    assert len(names) > 3


def test_the_commonest_values_are_told_by_chance():
    samples = list(
        open_source(f"{close.SCENES}:{close.ALL}:seed=3:split=val:count={close.HELD_OUT}")
    )
    facts = close.facts_of(samples)
    shares = [
        Counter(each[fact] for each in facts).most_common(1)[0][1] / len(facts)
        for fact in close.FACTS
    ]
    assert sum(shares) / len(shares) <= close.CHANCE
    assert close.rightly([sample.captions()[0] for sample in samples], facts) == 1


def test_captions_of_the_encoder_leave_out_most_facts():
    reported = {}
    for how in (close.LITTLE, close.ALL):
        samples = list(open_source(f"{close.SCENES}:{how}:seed=3:count=100"))
        reported[how] = close.rightly(
            [sample.captions()[0] for sample in samples], close.facts_of(samples)
        )
    assert reported[close.LITTLE] < 0.6
    assert reported[close.ALL] == 1


def test_quick_arms_run(tmp_path, monkeypatch):
    for name in ("LEARNT", "ASKED_OF"):
        monkeypatch.setattr(close, name, 1300)  # of which the quick form takes a batch
    trial = Trial(seed=100, folder=tmp_path / "prelude", quick=True)
    trial.folder.mkdir()
    prelude = close.draw(trial)
    found = {}
    for name in ("encoder", "w04", "entailment", "news"):
        (folder := tmp_path / name).mkdir()
        found[name] = close.claim.arms[name](replace(trial, folder=folder, prelude=prelude))
    assert found["encoder"]["excess"] == pytest.approx(
        found["encoder"]["matched"] - found["encoder"]["unrelated"]
    )
    assert {name: set(metrics) for name, metrics in found.items() if name != "encoder"} == {
        "w04": {"facts", "texts", "shuffled", "own"},
        "entailment": {"exact"},
        "news": {"facts", "named"},
    }
    for name in ("w04", "entailment", "news"):
        assert all(0 <= value <= 1 for value in found[name].values())
