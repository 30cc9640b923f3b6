"""The claim on contrasted images asks what it says: scenes with a prior, pairs that break it as often as
they keep it, arms that differ in the objective alone."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.evaluation.suites.answers import questions, twins
from diptych.lab.claim import Trial
from diptych.lab.claims import s_vco
from diptych.methods.fuse.s_vco.pairs import Pairs


@pytest.fixture
def begun(monkeypatch):
    """The configs of the runs that are begun, none of which is trained."""
    found = []

    def run(config, folder):
        found.append(config)
        raise StopIteration

    monkeypatch.setattr(s_vco, "run", run)
    return found


@pytest.fixture
def few(monkeypatch):
    for name in ("LEARNT", "PAIRS", "MEASURED"):
        monkeypatch.setattr(s_vco, name, 160)


def agreeing(source):
    return np.mean([sample.labels["prior"] for sample in source])


def test_the_model_before_learns_the_prior_and_pairs_break_it_as_often_as_not(
    tmp_path, begun, monkeypatch
):
    monkeypatch.setattr(s_vco, "LEARNT", 60)
    monkeypatch.setattr(s_vco, "PAIRS", 60)
    trial = Trial(seed=100, folder=tmp_path)
    with pytest.raises(StopIteration):
        s_vco.begin(trial)
    [config] = begun
    captions, asked = (open_source(config.data[name]) for name in ("train", "instructions"))
    pairs = open_source(s_vco.pairs(trial))
    assert agreeing(captions) > 0.8
    assert agreeing(asked) > 0.8
    assert 0.35 < agreeing(pairs) < 0.65
    keys = [*captions.keys(), *asked.keys(), *pairs.keys()]
    assert len(set(keys)) == len(keys)
    assert len(Pairs(pairs)) == 2 * 60


def test_it_is_judged_on_twins_of_which_the_first_is_against_the_prior(tmp_path, few):
    trial = Trial(seed=100, folder=tmp_path)
    source = s_vco.against(trial)
    luck = []
    for sample in source:
        [twin] = sample.edits
        assert (sample.labels["prior"], twin.labels["prior"]) == (0, 1)
        mine = questions(sample, choose=True)
        others = twins(twin, mine, choose=True)
        assert len(mine) == len(others) == 2
        luck += [1 / len(a.choices) / len(b.choices) for a, b in zip(mine, others, strict=True)]
    assert np.mean(luck) == s_vco.CHANCE
    assert set(source.keys()).isdisjoint(open_source(s_vco.pairs(trial)).keys())


def test_arms_differ_in_the_objective_alone(tmp_path, begun):
    arms = {name: arm for name, arm in s_vco.claim.arms.items() if name != "base"}
    for arm in arms.values():
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude="tiny"))
    found = dict(zip(arms, begun, strict=True))
    assert {name: config.config["objective"] for name, config in found.items()} == {
        "svco": "svco",
        "vco": "vco",
        "dpo": "dpo",
        "sft": "sft",
        "noise": "svco",
    }
    assert {name for name, config in found.items() if "negative" in config.config} == {"noise"}
    same = {
        str(replace(config, config={}, recipe=replace(config.recipe, lr=1.0)))
        for config in found.values()
    }
    assert len(same) == 1


def test_arms_go_on_from_the_prelude_and_measure_what_is_judged(tmp_path, few):
    trial = Trial(seed=5, folder=tmp_path, quick=True)
    trial = replace(trial, prelude=s_vco.begin(trial))
    found = {name: s_vco.claim.arms[name](trial) for name in ("base", "svco")}
    for expect in s_vco.claim.judged:
        assert expect.metric in found["svco"]
    for metrics in found.values():
        assert all(0 <= value <= 1 for value in metrics.values())
    assert set(found["base"]) - set(found["svco"]) == {"prior", "seen"}
    assert set(s_vco.claim.table) == set(found["base"])
