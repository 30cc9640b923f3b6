"""The claim on long captions asks what it says: one source, equal steps, texts and losses as
named."""

from dataclasses import replace

import torch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import dreamlip


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("dreamlip"))
    assert claim.floor.chance == 1 / dreamlip.PAIRS
    assert claim.learning == ("several", "grouped")


def test_arms_differ_in_texts_and_losses_alone(tmp_path, monkeypatch):
    begun, changes = {}, {}

    def run(config, folder, change=None):
        begun[name], changes[name] = config, change

    monkeypatch.setattr(dreamlip, "run", run)
    monkeypatch.setattr(dreamlip, "load", lambda folder: None)
    monkeypatch.setattr(dreamlip, "measure", lambda model, trial: {})
    for name, arm in dreamlip.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude={"learnt": "scenes:count=4"}))
    assert {
        name: (c.method, c.config["role"], c.config.get("subcaption")) for name, c in begun.items()
    } == {
        "raw": ("clip", "web", None),
        "cut": ("clip", "long*", None),
        "one": ("clip", "long", None),
        "several": ("dreamlip", "web", 0.0),
        "grouped": ("dreamlip", "web", None),
        "even": ("dreamlip", "web", None),
    }
    assert {name for name, change in changes.items() if change} == {"even"}
    same = {
        str(replace(c, method="", config={}, recipe=replace(c.recipe, lr=1.0)))
        for c in begun.values()
    }
    assert len(same) == 1


def test_one_quick_arm_runs_by_even_weights(tmp_path, brief):
    brief(dreamlip)
    trial = Trial(seed=5, folder=tmp_path / "prelude", quick=True)
    prelude = dreamlip.draw(trial)
    source = open_source(prelude["learnt"])
    assert set(source.schema()) >= {"texts.web", "texts.long"}
    assert "texts.caption" not in source.schema()
    assert len(source[0].captions("long")) >= 3
    (tmp_path / "arm").mkdir()
    seen = []

    def change(method):
        dreamlip.even(method)
        encode = method.encode
        method.encode = lambda batch, at: seen.append(encode(batch, at)) or seen[-1]

    arm = dreamlip.trained("dreamlip", like="grouped", change=change, **dreamlip.SEVERAL)
    found = arm(replace(trial, folder=tmp_path / "arm", prelude=prelude))
    assert set(found) == {"r1", "caption", "pointing", "iou", "chance", "miou"}
    groups = seen[0]["groups"]
    assert torch.equal(groups, groups[:, :1].expand_as(groups))
    assert not set(open_source(prelude["held_out"]).keys()) & set(source.keys())
