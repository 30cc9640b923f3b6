"""The claim on a stream of domains asks what it says: domains apart, equal steps, a teacher that
never learnt."""

from dataclasses import replace

import torch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import mod_x
from diptych.training.config import resolve
from diptych.training.run import build_method


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("mod_x"))
    assert claim.floor.chance == 1 / mod_x.PAIRS
    assert "stranger" not in claim.learning


def test_arms_differ_in_what_is_kept_and_rate_alone(tmp_path, monkeypatch):
    begun, changes = {}, {}

    def run(config, folder, change=None):
        begun.setdefault(name, []).append(config)
        changes[name] = change

    monkeypatch.setattr(mod_x, "run", run)
    monkeypatch.setattr(mod_x, "load", lambda folder: None)
    monkeypatch.setattr(mod_x, "measure", lambda model, trial: {})
    monkeypatch.setattr(mod_x, "neighbours", lambda model, prelude: 0.5)
    prelude = {name: f"{name}/*.tar" for name in (*mod_x.DOMAINS, "base")}
    for name, arm in mod_x.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude=prelude))
    assert "start" not in begun
    phases = begun.pop("simclr")
    assert [each.data["train"].partition("/")[0] for each in phases] == list(mod_x.DOMAINS)
    assert [each.recipe.steps for each in phases] == [mod_x.BASE_STEPS, *3 * [mod_x.STEPS]]
    begun = {name: only for name, (only,) in begun.items()}
    joint = begun.pop("joint")
    assert joint.data["train"].count(".tar") == 4
    assert joint.recipe.steps == 3 * begun["finetune"].recipe.steps
    assert {
        name: (c.config["alpha"], c.config.get("screen", True)) for name, c in begun.items()
    } == {
        "finetune": (0.0, True),
        "low": (0.0, True),
        "mod_x": (mod_x.ALPHA, True),
        "alpha5": (5.0, True),
        "alpha20": (20.0, True),
        "unscreened": (mod_x.ALPHA, False),
        "stranger": (mod_x.ALPHA, True),
    }
    assert {name for name, change in changes.items() if change} == {"stranger"}
    assert {name: c.recipe.lr for name, c in begun.items() if c.recipe.lr != mod_x.RATE} == {
        "finetune": mod_x.FINETUNED,
        "low": mod_x.LOW,
    }
    same = {
        str(
            replace(
                c,
                config={k: v for k, v in c.config.items() if k not in ("alpha", "screen")},
                recipe=replace(c.recipe, lr=1.0),
            )
        )
        for c in begun.values()
    }
    assert len(same) == 1
    assert "plain" not in str(begun["finetune"].data)


def test_the_stranger_never_learnt_and_stays_so():
    config = resolve(
        "mod_x",
        {"train": "scenes", "phase1": "scenes"},
        init="tiny",
        config={"phases": 2, "pretrained": True},
    )
    method, model = build_method(config, None)
    before = {name: value.clone() for name, value in method.old.module.state_dict().items()}
    mod_x.estrange(method)
    weights = [
        name for name, value in before.items() if name.endswith("weight") and value.dim() > 1
    ]
    changed = [
        name
        for name in weights
        if not torch.equal(before[name], method.old.module.state_dict()[name])
    ]
    assert len(changed) > len(weights) / 2
    method.stages()[0].prepare(None)
    assert all(
        not torch.equal(before[name], method.old.module.state_dict()[name]) for name in changed
    )
    assert torch.equal(
        model.state_dict()[changed[0]], before[changed[0]]
    )  # the new model learns on as it was


def test_quick_arms_run_and_domains_share_no_scene(tmp_path, brief, monkeypatch):
    brief(mod_x)
    monkeypatch.setattr(mod_x, "LEARNT", (256, 128, 128, 128))
    monkeypatch.setattr(mod_x, "PAIRS", 30)
    monkeypatch.setattr(mod_x, "GALLERIES", 1)
    trial = Trial(seed=100, folder=tmp_path / "prelude", quick=True)
    prelude = mod_x.pretrain(trial)
    keys = [set(open_source(prelude[name]).keys()) for name in mod_x.DOMAINS]
    assert [len(each) for each in keys] == [64, 32, 32, 32]
    assert not set.intersection(*({key.split("-")[-1] for key in each} for each in keys))
    for name in ("alpha20", "simclr"):
        (tmp_path / name).mkdir()
        found = mod_x.claim.arms[name](replace(trial, folder=tmp_path / name, prelude=prelude))
        recalls = {"base", "earlier", "old", "last", "all"} if name == "alpha20" else set()
        assert set(found) == {*recalls, "kept"}
        assert all(0 <= found[metric] <= 1 for metric in recalls)
        assert found["kept"] > 0
