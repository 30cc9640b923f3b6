"""The claim on alignment and distillation asks what it says: the same scenes with true and with wrong
captions, arms that differ in losses, negatives and targets."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import albef


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(albef, "LEARNT", 1600)
        return albef.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("albef"), quick=True))


def test_half_of_the_captions_of_the_same_scenes_are_wrong(drawn):
    clean, noisy = (open_source(drawn[name]) for name in ("clean", "noisy"))
    assert list(clean.keys()) == list(noisy.keys())
    other = [clean[at].captions() != noisy[at].captions() for at in range(len(clean))]
    assert np.mean(other) == pytest.approx(0.5, abs=0.15)


def test_measured_scenes_are_whole_and_have_captions_with_a_changed_fact(tmp_path):
    trial = Trial(seed=5, folder=tmp_path, quick=True)
    edited = open_source(albef.held_out(trial, "edited"))
    kinds = {edit.kind for sample in edited for edit in sample.edits}
    assert kinds == {"recolour", "move", "replace"}
    for sample in edited:
        for edit in sample.edits:
            assert edit.captions() != sample.captions()
    counts = {name: len(open_source(albef.held_out(trial, name))) for name in albef.MEASURED}
    assert counts == {"retrieved": 30, "matched": 10, "edited": 20}


def test_arms_differ_in_losses_negatives_and_targets_alone(tmp_path, monkeypatch, drawn):
    begun = {}

    def run(config, folder):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(albef, "run", run)
    for name, arm in albef.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=drawn))
    default = {"contrastive": 1.0, "matching": 1.0, "words": 1.0, "negatives": "similar"}
    said = {
        name: tuple(c.config.get(key, value) for key, value in default.items())
        for name, c in begun.items()
    }
    assert said == {
        "unaligned": (0.0, 1.0, 1.0, "random"),
        "aligned": (1.0, 1.0, 1.0, "similar"),
        "random": (1.0, 1.0, 1.0, "random"),
        "plain": (1.0, 0.0, 0.0, "similar"),
        "distilled": (1.0, 0.0, 0.0, "similar"),
        "m0": (1.0, 0.0, 0.0, "similar"),
    }
    targets = {name: (c.config.get("alpha"), c.config["momentum"]) for name, c in begun.items()}
    own = targets["aligned"][1]
    assert targets["plain"] == (0.0, own)
    assert targets["distilled"] == (0.4, own)
    assert targets["m0"] == (0.4, 0.0)
    for data, names in (
        ("clean", ("unaligned", "aligned", "random")),
        ("noisy", ("plain", "distilled", "m0")),
    ):
        runs = [begun[name] for name in names]
        assert {c.data["train"] for c in runs} == {drawn[data]}
        same = {str(replace(c, config={}, recipe=replace(c.recipe, lr=1.0))) for c in runs}
        assert len(same) == 1


@pytest.mark.parametrize("name", ["aligned", "distilled"])
def test_arms_measure_what_they_are_judged_by(tmp_path, monkeypatch, brief, drawn, name):
    brief(albef)
    monkeypatch.setattr(albef, "MEASURED", {"retrieved": 100, "matched": 60, "edited": 60})
    found = albef.claim.arms[name](Trial(seed=5, folder=tmp_path, quick=True, prelude=drawn))
    assert albef.claim.needs(name) <= set(found)
    assert all(0 <= value <= 1 for value in found.values())
