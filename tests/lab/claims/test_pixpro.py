"""The claim on positions asks what it says: scenes with masks, arms that differ in the objective alone,
pairs without geometry, an encoder that is its own target."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import make_batch, make_method

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import pixpro
from diptych.methods.make import NO_TOWER


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=pixpro.draw(trial))


def made():
    return make_method(
        "pixpro",
        image="conv:image_size=32:widths=(8,16):depths=(1,1)",
        text=NO_TOWER,
        embed_dim=8,
        projector="mlp:hidden=8",
    )


def crops(count):
    torch.manual_seed(0)
    low = torch.rand(count, 2, 2) / 2
    return torch.cat([low, low + 0.4], -1)


def test_parts_share_no_scene_and_masks_show_several_shapes(trial):
    parts = {part: open_source(trial.prelude[part]) for part in pixpro.PARTS}
    keys = [set(source.keys()) for source in parts.values()]
    assert len(set.union(*keys)) == sum(map(len, keys))
    assert len(parts["test"].schema()["masks.class"].classes) == 5
    shown = [len(np.unique(np.asarray(sample.masks["class"].decode()))) for sample in parts["test"]]
    assert min(shown) >= 4  # the ground among them


def test_dealt_pairs_are_as_many_and_elsewhere():
    method = made()
    batch = make_batch(6, {"main": 2}, **{"main.crops": crops(6)})
    near = method.positives(batch, (4, 4))
    pixpro.deal(method)
    torch.manual_seed(0)
    dealt = method.positives(batch, (4, 4))
    assert torch.equal(dealt.sum(2), near.sum(2))
    assert near.sum() > 50
    assert (dealt * near).sum() < near.sum() / 2


def test_an_encoder_that_is_its_own_target_has_its_gradient():
    method = made()
    pixels = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        before = method.project(method.slow.module, pixels).maps[0]
    pixpro.copy(method)
    with torch.no_grad():
        after = method.project(method.slow.module, pixels).maps[0]
    assert not before.requires_grad
    assert after.requires_grad
    torch.testing.assert_close(after, method.project(method.slow.online, pixels).maps[0])


def test_arms_differ_in_the_objective_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(
        pixpro, "run", lambda config, folder, change: begun.__setitem__(name, (config, change))
    )
    monkeypatch.setattr(pixpro, "measure", lambda trial, level: {"level": level})
    for name, arm in pixpro.claim.arms.items():
        found = arm(Trial(seed=3, folder=tmp_path, prelude={"train": "scenes:count=4"}))
        assert found["level"] == (0 if name == "pyramid" else None)
    assert {name: change for name, (_, change) in begun.items() if change} == {
        "dealt": pixpro.deal,
        "copied": pixpro.copy,
    }
    assert {name for name, (config, _) in begun.items() if config.method == "byol"} == {"byol"}
    assert begun["byol"][0].config["augment"] == begun["pixpro"][0].config["augment"]
    assert begun["pixpro"][0].config["second"] == begun["pixpro"][0].config["augment"]
    untrained = begun.pop("untrained")[0].recipe
    assert (untrained.steps, untrained.lr) == (1, 1e-9)
    same = {
        str(replace(config, method="", config={}, recipe=replace(config.recipe, lr=1.0)))
        for config, _ in begun.values()
    }
    assert len(same) == 1


def test_the_floor_is_of_the_method():
    claim = block(find("pixpro"))
    assert claim.floor.metric == "correspondence"
    assert claim.learning == ("pixpro",)
    assert claim.mechanism == ("dealt", "copied")


@pytest.mark.parametrize("arm", ["byol", "pyramid"])
def test_a_quick_arm_runs_and_is_measured(trial, tmp_path, brief, arm):
    brief(pixpro)
    found = pixpro.claim.arms[arm](replace(trial, folder=tmp_path))
    assert set(found) == set(pixpro.claim.table)
    assert all(0 <= value <= 1 for value in found.values())
