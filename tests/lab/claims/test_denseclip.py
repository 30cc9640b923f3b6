"""The claim on scores of class names asks what it says: one head, few masks, texts as named."""

from dataclasses import replace

import pytest
import torch
from tests.factories import make_method, random_images

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import denseclip
from diptych.testing import Toy

VIT = "vit:image_size=32:patch=8:width=32:depth=4:heads=2"
SMALL = {"size": 32, "width": 16, "inner": 16, "decoder_width": 16}


def made(change=None, seed=0):
    """A segmentor, changed as in a run: before it knows its classes."""
    method = make_method("denseclip", image=VIT, **SMALL)
    if change is not None:
        change(method.model, seed)
    method.setup({"train": Toy(2, ["images.main", "masks.class"])})
    return method.model.eval()


@torch.no_grad()
def scored(segmentor):
    """The scores that the head reads, and those of the loss."""
    maps, scores = segmentor.scored_maps(random_images(2, size=32))
    return maps[segmentor.scored][:, -len(segmentor.classes) :], scores


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("denseclip"))
    assert claim.learning == ("fpn", "denseclip")
    assert claim.needs("random_dense") == {"gain"}


def test_without_scores_the_head_reads_none():
    read, scores = scored(made(denseclip.without_scores))
    assert not read.any()
    assert not scores.any()


def test_shuffled_classes_have_each_the_text_of_another():
    with torch.no_grad():
        plain = made().class_texts()
        found = made(denseclip.shuffled, 4).class_texts()
    place = torch.cdist(found, plain).argmin(1)
    assert sorted(place.tolist()) == list(range(len(plain)))
    assert not (place == torch.arange(len(plain))).any()
    torch.testing.assert_close(found, plain[place])


def test_random_texts_are_a_function_of_the_seed_alone():
    one, again, other = (scored(made(denseclip.at_random, seed))[1] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=1e-2)


def test_a_forgotten_tower_has_other_weights():
    tower = make_method("denseclip", image=VIT, **SMALL).model.image
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    denseclip.forget(tower)
    after = tower.state_dict()
    weights = [name for name in before if name.startswith(("patch", "positions", "transformer"))]
    weights = [name for name in weights if before[name].dim() > 1]
    assert len(weights) > 10
    assert all(not torch.equal(before[name], after[name]) for name in weights)


def test_arms_differ_in_texts_and_tower_alone(tmp_path, monkeypatch):
    begun = {}

    def run(config, folder, change=None):
        begun[folder.parent.name, folder.name] = config
        raise StopIteration

    monkeypatch.setattr(denseclip, "run", run)
    for name, arm in denseclip.claim.arms.items():
        folder = tmp_path / "+".join(name if isinstance(name, tuple) else (name,))
        with pytest.raises(StopIteration):
            arm(Trial(seed=3, folder=folder, prelude={"learnt": "scenes:count=4"}))
    assert {
        where: (config.config.get("context", "post"), config.config.get("scores_weight"))
        for where, config in begun.items()
    } == {
        ("fpn+denseclip", "fpn"): ("none", 0.0),
        ("plain", "run"): ("none", None),
        ("shuffled", "run"): ("post", None),
        ("random", "run"): ("post", None),
        ("random_fpn+random_dense", "random_fpn"): ("none", 0.0),
    }
    ours = ("context", "scores_weight")
    same = {
        str(
            replace(
                config,
                config={k: v for k, v in config.config.items() if k not in ours},
                recipe=replace(config.recipe, lr=1.0),
            )
        )
        for config in begun.values()
    }
    assert len(same) == 1


def test_a_quick_pair_of_arms_runs_and_is_measured(tmp_path, brief):
    brief(denseclip)
    trial = Trial(seed=100, folder=tmp_path / "prelude", quick=True)
    prelude = denseclip.draw(trial)
    keys = [set(open_source(prelude[name]).keys()) for name in ("learnt", "test")]
    assert len(keys[0]) == denseclip.LEARNT
    assert not keys[0] & keys[1]
    arm = denseclip.claim.arms["fpn", "denseclip"]
    found = arm(replace(trial, folder=tmp_path / "arm", prelude=prelude))
    assert set(found["denseclip"]) == set(denseclip.claim.table)
    assert found["denseclip"]["gain"] == found["denseclip"]["miou"] - found["fpn"]["miou"]
