"""The claim on concepts asks what it says: the same images, steps and batches, and rates as
told."""

from dataclasses import replace

import torch

from diptych.data.sources import open_source
from diptych.data.worlds.scenes.config import RESERVED
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import cones


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("cones"))
    assert not {"held", "names", "second", "tuned", "timing"} & set(claim.learning)


def test_what_is_learnt_from_is_new_and_apart_from_what_is_measured_on(tmp_path):
    trial = Trial(seed=3, folder=tmp_path, quick=True)
    learnt, test = (open_source(spec) for spec in cones.images(trial, "novel", 4))
    known = {sample.labels["object"] for sample in learnt}
    names = learnt.schema()["labels.object"].classes
    assert len(learnt) == 4 * len(names) == 4 * len(known) == 40
    assert not set(learnt.keys()) & set(test.keys())
    seen = open_source("scenes:count=1").schema()["labels.object"].classes
    assert not set(names) & set(seen)  # what `tiny` learnt from
    assert set(names) == set(RESERVED)


def test_arms_differ_in_method_and_rate_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(cones, "run", lambda config, out: begun.setdefault(name, []).append(config))
    monkeypatch.setattr(cones, "load", lambda out: None)
    monkeypatch.setattr(cones, "evaluate", lambda *args, **how: {"zeroshot": {"top1": 0.5}})
    for name, arm in cones.claim.arms.items():  # the patched run reads the name
        if name != "timing":
            arm(Trial(seed=3, folder=tmp_path))
    assert "names" not in begun
    assert [len(configs) for configs in begun.values()] == [4] * 6 + [1] * 2
    for at in range(4):
        same = {
            str(
                replace(
                    configs[at],
                    method="",
                    config={},
                    recipe=replace(configs[at].recipe, lr=1.0, steps=1, epochs=1),
                )
            )
            for configs in list(begun.values())[:6]
        }
        assert len(same) == 1
    assert {
        name: {config.recipe.steps for config in configs} for name, configs in begun.items()
    } == {name: {1} if name in ("held", "tuned") else {cones.STEPS} for name in begun}
    assert begun["inversion"][0].config["position"] == "name"
    second, still = (begun[name][0] for name in ("second", "tuned"))
    assert second.config == still.config
    assert second.config["second"]["steps"] == cones.FINE


def test_a_concept_that_is_held_is_its_name(tmp_path):
    trial = Trial(seed=5, folder=tmp_path, quick=True)
    assert cones.accuracy(trial, ("cones", cones.STILL, {}), "novel", 1) == cones.accuracy(
        trial, None, "novel", 1
    )


def test_a_step_is_timed_on_both_sides(tmp_path):
    trial = Trial(seed=5, folder=tmp_path, quick=True)
    found = cones.timing(trial)
    assert set(found) == {"step", "step_whole"}
    assert all(value > 0 for value in found.values())
    side = cones.Side(trial, "cones", {})
    assert side.model.encoder.text is None
    before = side.model.bank.vectors.detach().clone()
    side.seconds(True)
    assert not torch.equal(before, side.model.bank.vectors)
