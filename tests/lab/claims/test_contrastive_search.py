"""The claim on contrastive search asks what it says: one model, one set of beginnings, and states
that are shifted and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import contrastive_search
from diptych.methods.store import load
from diptych.models.strategies import STRATEGIES, Contrastive, likeness, strategy_of


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """A trial after its prelude, whose models are tiny-lm."""
    monkeypatch.setattr(contrastive_search, "language_model", lambda *_: "tiny-lm")
    monkeypatch.setattr(contrastive_search, "PROMPTS", 3)
    monkeypatch.setattr(contrastive_search, "LENGTH", 12)
    trial = Trial(seed=100, folder=tmp_path)
    return replace(trial, prelude=contrastive_search.prepare(trial))


def texts(trial, name="prompts"):
    path = Path(trial.prelude[name].partition(":text")[0])
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_beginnings_are_of_held_out_texts_of_the_seed(trial, tmp_path):
    tokenizer = load("tiny-lm").tokenizer
    wanted = contrastive_search.PREFIX + contrastive_search.LENGTH
    for name in ("prompts", "tiny_prompts"):
        assert len(texts(trial, name)) == 3
        assert all(len(tokenizer.ids(text)) > wanted for text in texts(trial, name))
    other = replace(trial, seed=101, folder=tmp_path / "other")
    other.folder.mkdir()
    other = replace(other, prelude=contrastive_search.prepare(other))
    assert not set(texts(other)) & set(texts(trial))


def test_the_second_model_reads_other_texts_with_words_of_its_own(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(
        contrastive_search, "run", lambda config, folder: begun.setdefault(folder.name, config)
    )
    contrastive_search.prepare(Trial(seed=100, folder=tmp_path))
    first, second = begun["lm"], begun["scorer"]
    assert first.recipe == second.recipe
    assert first.data != second.data
    assert first.options.seed != second.options.seed
    assert all("split" not in config.data["train"] for config in begun.values())  # train
    assert all(config.init is None for config in begun.values())


def test_arms_differ_in_the_strategy_alone(trial, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        contrastive_search,
        "measured",
        lambda trial, model, strategy: asked.setdefault(name, (model.identity, strategy)) and {},
    )
    for name in contrastive_search.STRATEGY:
        contrastive_search.ARMS[name](trial)
    assert len({model for model, _ in asked.values()}) == 1
    assert {name: spec for name, (_, spec) in asked.items()} == contrastive_search.STRATEGY
    assert strategy_of(asked["contrastive"][1]) == Contrastive(k=5, alpha=0.6)


def test_a_shift_makes_all_states_alike_and_changes_no_probability():
    torch.manual_seed(0)
    hidden, earlier = torch.randn(2, 5, 32), torch.randn(2, 9, 32)
    mask = torch.ones(2, 9, dtype=torch.bool)
    shifted = contrastive_search.Shifted(k=5, alpha=0.6, shift=10.0)
    assert float(shifted.penalty(hidden, earlier, mask).min()) > 0.95
    plain = contrastive_search.Shifted(k=5, alpha=0.6).penalty(hidden, earlier, mask)
    torch.testing.assert_close(plain, likeness(hidden, earlier, mask))
    logits = torch.randn(2, 20)
    for found, expected in zip(
        shifted.candidates(logits), Contrastive().candidates(logits), strict=True
    ):
        assert torch.equal(found, expected)


def test_arms_return_what_is_judged(trial, monkeypatch):
    monkeypatch.setitem(STRATEGIES, "shifted", Contrastive)
    for name in ("greedy", "contrastive", "shifted"):
        found = contrastive_search.ARMS[name](trial)
        assert 0 < found["diversity"] <= 1
        assert found["coherence"] < 0
        assert 0 < found["isotropy"] < 1.5
    assert contrastive_search.ARMS["alpha0"](trial) == {"changed": 0.0}


def test_models_are_trained_on_alike_but_for_the_method(trial, monkeypatch):
    begun = []
    monkeypatch.setattr(contrastive_search, "run", lambda config, folder: begun.append(config))
    monkeypatch.setattr(contrastive_search, "load", lambda spec: None)
    monkeypatch.setattr(contrastive_search, "measured", lambda *_: {})
    for name in ("mle", "simctg"):
        contrastive_search.claim.arms[name](trial)
    first, second = begun
    assert (first.method, second.method) == ("language_model", "contrastive_search")
    assert first.recipe == second.recipe
    assert (first.init, first.data) == (second.init, second.data)


def test_the_floor_is_of_isotropy():
    claim = block(find("contrastive_search"))
    assert claim.floor.metric == "isotropy"
    assert claim.floor.value == 0.5
    assert claim.learning == ("contrastive",)


def test_stories_are_sampled_from_the_pack(data_pack, tmp_path, monkeypatch):
    data_pack("stories260k")
    monkeypatch.setattr(contrastive_search, "language_model", lambda *_: "tiny-lm")
    monkeypatch.setattr(contrastive_search, "PROMPTS", 2)
    monkeypatch.setattr(contrastive_search, "STORIES", 2)
    monkeypatch.setattr(contrastive_search, "STORY", 20)
    trial = Trial(seed=100, folder=tmp_path)
    trial = replace(trial, prelude=contrastive_search.sample_stories(trial))
    assert trial.prelude["lm"].endswith("stories260k")
    assert len(texts(trial)) == 2
    learnt = (tmp_path / "learnt.jsonl").read_text().splitlines()
    assert len(learnt) == 2
    assert not {json.loads(line)["text"] for line in learnt} & set(texts(trial))
    found = contrastive_search.ARMS["contrastive"](trial)
    assert found["isotropy"] > 0.5
