"""The claim on whitened sentences asks what it says: one start, one recipe, arms that differ in their
groups alone."""

from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import whitened_cse


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("whitened"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whitened_cse, "SENTENCES", 1200)
        patch.setattr(whitened_cse, "PAIRS", 200)
        return replace(trial, prelude=whitened_cse.draw(trial))


def test_a_batch_is_larger_than_the_width():
    assert whitened_cse.BATCH > whitened_cse.WIDTH  # else all channels cannot be whitened together
    claim = block(find("whitened_cse"))
    assert claim.mechanism == ("whole",)
    assert "start" not in claim.learning


def test_no_sentence_of_the_test_is_learnt(trial):
    learnt, test = (open_source(trial.prelude[name]) for name in ("train", "test"))
    assert set(learnt.schema()) == {"texts.caption"}
    assert not set(learnt.keys()) & set(test.keys())


def test_arms_differ_in_their_groups_alone(trial, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(whitened_cse, "run", lambda config, folder: begun.append(config))
    monkeypatch.setattr(whitened_cse, "load", lambda folder: None)
    monkeypatch.setattr(whitened_cse, "measure", lambda model, trial: {})
    arms = {name: arm for name, arm in whitened_cse.claim.arms.items() if name != "start"}
    for arm in arms.values():
        arm(replace(trial, folder=tmp_path, quick=False))
    found = dict(zip(arms, begun, strict=True))
    own = {
        name: {
            each: value
            for each, value in config.config.items()
            if each in ("groups", "grouping", "detach_whitening")
        }
        for name, config in found.items()
    }
    assert own == {
        "simcse": {},
        "shuffled": {"groups": 16},
        "fixed": {"groups": 16, "grouping": "fixed"},
        "shared": {"groups": 16, "grouping": "shared"},
        "whole": {"groups": 1},
    }
    assert {config.config["passes"] for config in begun} == {3}
    same = {
        str(replace(config, method="", config={}, recipe=replace(config.recipe, lr=1.0)))
        for config in begun
    }
    assert len(same) == 1


def test_an_arm_measures_what_is_judged(trial, tmp_path):
    found = whitened_cse.claim.arms["shuffled"](replace(trial, folder=tmp_path))
    assert whitened_cse.claim.needs("shuffled") <= set(found)
    assert -1 <= found["spearman"] <= 1
