"""The claim on two captions asks what it says: captions of different content, arms that differ in captions
and losses alone, targets of other images, a teacher that follows at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import AT

from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import tips
from diptych.training.config import resolve
from diptych.training.run import build_method


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=tips.draw(trial))


@pytest.fixture
def begun(trial, tmp_path, monkeypatch):
    """The configs and changes of all arms, none of which is trained."""
    found = {}
    monkeypatch.setattr(
        tips, "run", lambda config, folder, change: found.__setitem__(name, (config, change))
    )
    monkeypatch.setattr(tips, "measure", lambda trial: {})
    for name, arm in tips.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(replace(trial, folder=tmp_path, quick=False))
    return found


def test_parts_share_no_scene_and_captions_differ_in_content(trial):
    parts = {part: open_source(trial.prelude[part]) for part in tips.PARTS}
    keys = [set(source.keys()) for source in parts.values()]
    assert len(set.union(*keys)) == sum(map(len, keys))
    lengths = {
        role: np.mean([len(sample.captions(role)[0].split()) for sample in parts["test"]])
        for role in ("web", "synthetic")
    }
    assert lengths["synthetic"] > 2 * lengths["web"]
    assert "arrays.depth" in parts["test"].schema()
    assert "arrays.depth" not in parts["train"].schema()


def test_arms_differ_in_captions_and_losses_alone(begun):
    said = {
        name: (config.config["role"], config.config.get("alpha", 1), config.config.get("beta", 2))
        for name, (config, _) in begun.items()
    }
    both = "web;synthetic"
    assert said == {
        "web": ("web;web", 0, 0),
        "synthetic": ("synthetic;synthetic", 0, 0),
        "dual": (both, 0, 0),
        "full": (both, 1, 2),
        "dealt": (both, 1, 2),
        "uncentred": (both, 1, 2),
    }
    assert {name: change for name, (_, change) in begun.items() if change} == {
        "dealt": tips.deal,
        "uncentred": tips.follow,
    }
    same = {
        str(replace(config, config={}, recipe=replace(config.recipe, lr=1.0)))
        for config, _ in begun.values()
    }
    assert len(same) == 1


def made(begun):
    config, _ = begun["full"]
    method, _ = build_method(config, build(config.tokenizer, ["a red thing on the left"]))
    return method


def test_dealt_targets_are_those_of_another_image(begun):
    method = made(begun)
    seen = torch.rand(4, 36, tips.WIDTH)
    taught = torch.rand(4, 36, tips.WIDTH)
    hidden = torch.rand(4, 36) < 0.5
    head = method.taught()[1]["patch"]
    with torch.no_grad():
        expected = method._predicted(seen, hidden, taught.roll(1, 0), head, AT)["predicted"]
        own = method._predicted(seen, hidden, taught, head, AT)["predicted"]
        tips.deal(method)
        dealt = method._predicted(seen, hidden, taught, head, AT)["predicted"]
    assert torch.equal(dealt, expected)
    assert not torch.equal(dealt, own)


def test_a_teacher_that_follows_has_the_weights_of_the_student(begun):
    method = made(begun)
    with torch.no_grad():
        for parameter in method.heads.parameters():
            parameter.add_(1.0)
    tips.follow(method)
    method.teacher.update(0.99)
    _, heads = method.taught()
    for slow, fast in zip(heads.parameters(), method.heads.parameters(), strict=True):
        torch.testing.assert_close(slow, fast)


def test_floor_and_mechanism():
    claim = block(find("tips"))
    assert claim.learning == ("synthetic", "dual", "full")
    assert claim.mechanism == ("dealt", "uncentred")


def test_a_quick_arm_runs_and_is_measured(trial, tmp_path, monkeypatch):
    def short(*args, recipe, **options):
        return resolve(*args, recipe={**recipe, "steps": 2, "batch_size": 16}, **options)

    monkeypatch.setattr(tips, "resolve", short)
    found = tips.claim.arms["full"](replace(trial, folder=tmp_path))
    assert set(found) == set(tips.claim.table)
