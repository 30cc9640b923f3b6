"""The claim on drawn pairs asks what it says: meanings that recur, equal epochs, a teacher that knows
nothing."""

from dataclasses import replace

import pytest
import torch

from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import debcse
from diptych.lab.claims._sentences import CONFIG, TOWER, WIDTH
from diptych.training.config import resolve
from diptych.training.run import build_method


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("debcse"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(debcse, "MEANINGS", 640)
        patch.setattr(debcse, "SENTENCES", 2560)
        patch.setattr(debcse, "PAIRS", 500)
        return replace(trial, prelude=debcse.draw(trial))


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("debcse"))
    assert claim.learning == ("simcse", "debcse")
    assert claim.mechanism == ("blind",)


def test_no_label_is_learnt_and_no_sentence_of_the_test(trial):
    learnt, test = (open_source(trial.prelude[name]) for name in ("train", "test"))
    assert set(learnt.schema()) == {"texts.caption"}
    assert not set(learnt.keys()) & set(test.keys())


@pytest.mark.parametrize("stretch", [1, 2])
def test_arms_have_equal_epochs_and_differ_as_named(trial, tmp_path, monkeypatch, stretch):
    begun = []
    changes = []

    def run(config, folder, change=None):
        begun.append(config)
        changes.append(change)

    monkeypatch.setattr(debcse, "run", run)
    monkeypatch.setattr(debcse, "load", lambda folder: None)
    monkeypatch.setattr(debcse, "measure", lambda model, trial: {})
    arms = {name: arm for name, arm in debcse.claim.arms.items() if name != "start"}
    for arm in arms.values():
        arm(replace(trial, folder=tmp_path, stretch=stretch))
    found = dict(zip(arms, begun, strict=True))
    assert changes == [None, None, None, None, debcse.blind]
    simcse = found.pop("simcse")
    assert simcse.recipe.epochs == stretch * (debcse.WARM + debcse.EPOCHS)
    same = {name: value for name, value in simcse.config.items() if name in CONFIG}
    assert same == CONFIG
    options = {
        name: {each: value for each, value in config.config.items() if each not in CONFIG}
        for name, config in found.items()
    }
    assert all(config.config.items() >= CONFIG.items() for config in found.values())
    assert {each.pop("warm") for each in options.values()} == {stretch * debcse.WARM}
    assert {config.recipe.epochs for config in found.values()} == {stretch * debcse.EPOCHS}
    assert options == {
        "debcse": {},
        "level": {"propensity": False},
        "unguarded": {"guard": False},
        "blind": {},
    }
    recipe = replace(simcse.recipe, epochs=1, lr=1.0)
    same = {
        str(replace(config, method="", config={}, recipe=recipe)) for config in (simcse, *begun)
    }
    assert len(same) == 1


def test_a_blind_teacher_gives_a_text_one_direction_and_others_other_ones(trial):
    settings = resolve(
        "debcse",
        {"train": trial.prelude["train"]},
        text_tower=TOWER,
        tokenizer="chars:context=16",
        embed_dim=WIDTH,
    )
    method, _ = build_method(settings, build(settings.tokenizer))
    debcse.blind(method)
    encoder, _ = method.teaching
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 9], [8, 6, 7, 0]])
    one, longer, other = encoder.embed_texts(ids, torch.tensor([3, 4, 3]))
    again = encoder.embed_texts(ids[:1, :3], torch.tensor([3]))
    assert torch.equal(one, again[0])
    assert float(one.norm()) == pytest.approx(1, abs=1e-5)
    assert abs(float(one @ longer)) < 0.6
    assert abs(float(one @ other)) < 0.6


def test_an_arm_measures_what_is_judged(trial, tmp_path, monkeypatch):
    monkeypatch.setattr(debcse, "EPOCHS", 1)
    found = debcse.claim.arms["debcse"](replace(trial, folder=tmp_path))
    assert debcse.claim.needs("debcse") <= set(found)
    assert all(0 <= value <= 1 for name, value in found.items() if name != "spearman")
