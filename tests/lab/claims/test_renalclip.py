"""The claim on kidneys asks what it says: attributes of other kidneys, exchanged reports, an unseen centre,
few labels, and as many volumes for all arms."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diptych.data.sample import labels_of, missing
from diptych.data.sources import open_source
from diptych.data.worlds.kidneys.words import ATTRIBUTES
from diptych.lab.claim import Trial
from diptych.lab.claims import renalclip

SMALL = {"KIDNEYS": 128, "LABELLED": 120, "MEASURED": 160, "BATCH": 16, "SURVIVAL_BATCH": 16}


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """What the prelude returns, of small sources; its model is not trained."""
    for name, count in SMALL.items():
        monkeypatch.setattr(renalclip, name, count)
    monkeypatch.setattr(renalclip, "run", lambda settings, out: None)
    return renalclip.draw(Trial(seed=5, folder=tmp_path, quick=True))


def test_permuted_attributes_are_those_of_one_other_kidney(drawn):
    own = open_source(drawn["kidneys"])
    other = renalclip.OtherAttributes(own, seed=5)
    assert sorted(other.other) == list(range(len(own)))
    assert not (other.other == np.arange(len(own))).any()
    names = [name.removeprefix("labels.") for name in own.schema() if name.startswith("labels.")]
    columns = {name: labels_of(other, name) for name in names}
    for index in range(len(own)):
        mine, theirs = own[index], own[int(other.other[index])]
        found = other[index]
        for name in columns:
            none = missing(own.schema()[f"labels.{name}"])
            value = (theirs if name in ATTRIBUTES else mine).labels.get(name, none)
            np.testing.assert_equal(found.labels.get(name, none), value)
            np.testing.assert_equal(columns[name][index], value)
        assert found.texts == mine.texts


def test_a_fifth_is_labelled():
    assert renalclip.KIDNEYS == 5 * renalclip.LABELLED


def test_the_probe_learns_from_few_kidneys_of_the_training_and_is_measured_elsewhere(drawn):
    labelled, kidneys, measured = (
        open_source(drawn[name]) for name in ("labelled", "kidneys", "measured")
    )
    assert list(labelled.keys()) == list(kidneys.keys())[: len(labelled)]
    centres = [set(labels_of(source, "centre")) for source in (kidneys, measured)]
    assert not centres[0] & centres[1]
    assert not set(kidneys.keys()) & set(measured.keys())


def test_prompts_are_sentences_that_no_report_has(drawn):
    prompts = json.loads(Path(drawn["prompts"]).read_text("utf-8"))
    assert list(prompts) == list(ATTRIBUTES["kind"])
    reports = " ".join(s.captions()[0].lower() for s in open_source(drawn["kidneys"]))
    for sentences in prompts.values():
        assert sentences
        assert not any(sentence.lower() in reports for sentence in sentences)


def test_half_of_the_patients_have_the_reports_of_the_other_side(drawn):
    own, swapped = (list(open_source(drawn[name])) for name in ("kidneys", "swapped"))
    texts = [[s.captions()[0] for s in source] for source in (own, swapped)]
    kept = sum(a == b for a, b in zip(*texts, strict=True)) / len(own)
    assert 0.2 < kept < 0.8
    for at in range(0, len(own), 2):
        assert sorted(texts[0][at : at + 2]) == sorted(texts[1][at : at + 2])


def test_arms_differ_in_stages_and_attributes_alone(tmp_path, monkeypatch, drawn):
    begun, given = {}, {}

    def run(config, folder, sources):
        begun[name] = config
        given[name] = sources

    monkeypatch.setattr(renalclip, "run", run)
    monkeypatch.setattr(renalclip, "measure", lambda trial: {})
    arms = {**renalclip.claim.arms, "rate": renalclip.trained(rate=0.5)}
    for name, arm in arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=100, folder=tmp_path, prelude={**drawn, "start": "tiny"}))
    assert begun.pop("rate").recipe.lr == 0.5
    steps = {
        name: c.recipe.steps + sum(each["steps"] for each in c.config["recipes"].values())
        for name, c in begun.items()
    }
    assert len(set(steps.values())) == 1
    stages = {name: tuple(c.config["knowledge"]) for name, c in begun.items()}
    assert stages == {**dict.fromkeys(begun, ("attributes",)), "scratch": ()}
    data = {name: c.data["train"] for name, c in begun.items()}
    assert data == {**dict.fromkeys(begun, drawn["kidneys"]), "sides": drawn["swapped"]}
    assert {name for name, sources in given.items() if sources} == {"permuted"}
    assert isinstance(given["permuted"]["data.train"], renalclip.OtherAttributes)
    same = {
        str(replace(c, data={}, config={}, recipe=replace(c.recipe, steps=1, lr=1.0)))
        for c in begun.values()
    }
    assert len(same) == 1


def test_the_floor_is_of_both_sides_told_apart():
    assert renalclip.claim.floor.metric == "side"
    assert renalclip.claim.learning == ("scratch", "renalclip")
    assert renalclip.claim.floor.value == 0.75


def test_a_quick_arm_runs(tmp_path, monkeypatch):
    for name, count in SMALL.items():
        monkeypatch.setattr(renalclip, name, count)
    trial = Trial(seed=100, folder=tmp_path, quick=True)
    trial = replace(trial, prelude=renalclip.draw(trial))
    found = renalclip.claim.arms["permuted"](trial)
    assert set(found) == set(renalclip.claim.table)
    assert all(0 <= value <= 1 for value in found.values())
