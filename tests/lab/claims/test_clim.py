"""The arms of the claim of clim change what they say, and nothing else."""

from dataclasses import replace
from functools import partial

import torch
from tests.factories import AT, make_batch, make_method

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import clim
from diptych.lab.claims.clim import of_all, permuted, plainly, pooled_from
from diptych.methods.dense.clim.mosaic import tile_boxes

VIT = "vit:image_size=16:patch=8:width=32:depth=2:heads=2"


def encoded(change=None, **config):
    made = make_method("clim", image=VIT, **{"choices": (2,), "group": 5, **config}).eval()
    if change is not None:
        change(made)
    batch = make_batch(5, {"main": 1}, {"main": 1}, size=made.tile)
    with torch.no_grad():
        return made, batch, made.encode(batch, AT)["image"]


def test_plain_embeds_every_image_whole():
    made, batch, found = encoded(plainly, tile=8)
    assert made.tile == 16
    assert torch.equal(found, made.model.embed_images(batch.image.flat))


def test_permuted_tiles_have_the_boxes_of_others():
    torch.manual_seed(0)
    boxes = permuted(3)
    assert sorted(map(tuple, boxes.tolist())) == sorted(map(tuple, tile_boxes(3).tolist()))
    assert not torch.equal(boxes, tile_boxes(3))
    *_, plain = encoded()
    *_, found = encoded(partial(pooled_from, lambda side: tile_boxes(side).flip(0)))
    torch.testing.assert_close(found[:4], plain[:4].flip(0))
    assert torch.equal(found[4], plain[4])


def test_whole_pools_every_tile_alike():
    *_, found = encoded(partial(pooled_from, of_all))
    torch.testing.assert_close(found[:4], found[:1].expand(4, -1))
    assert not torch.allclose(found[4], found[0], atol=1e-3)


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("clim"))
    assert claim.learning == ("plain", "clim", "single")
    assert claim.floor.value == clim.LEAST


def test_arms_differ_in_mosaics_and_boxes_alone(tmp_path, monkeypatch):
    begun = {}
    changes = {}

    def run(config, folder, change=None):
        name = folder.parent.name
        begun[name] = config
        changes[name] = change

    monkeypatch.setattr(clim, "run", run)
    monkeypatch.setattr(clim, "load", lambda folder: None)
    monkeypatch.setattr(clim, "measure", lambda model, trial: {})
    prelude = {"learnt": "scenes:count=4"}
    for name, arm in clim.claim.arms.items():
        arm(Trial(seed=3, folder=tmp_path / name, prelude=prelude))
    assert {name: c.config["choices"] for name, c in begun.items()} == {
        "plain": (2, 3),
        "clim": (2, 3),
        "single": (1,),
        "permuted": (2, 3),
        "whole": (2, 3),
    }
    assert {name for name, change in changes.items() if change} == {"plain", "permuted", "whole"}
    ours = ("choices", "tile", "size")
    same = {
        str(
            replace(
                c,
                config={k: v for k, v in c.config.items() if k not in ours},
                recipe=replace(c.recipe, lr=1.0),
            )
        )
        for c in begun.values()
    }
    assert len(same) == 1


def test_one_quick_arm_runs_and_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(clim, "GROUP", 16)
    monkeypatch.setattr(clim, "MOSAICS", {**clim.MOSAICS, "group": 16})
    trial = Trial(seed=100, folder=tmp_path / "prelude", quick=True)
    prelude = clim.draw(trial)
    keys = {name: set(open_source(data).keys()) for name, data in prelude.items()}
    assert not keys["learnt"] & (keys["boxed"] | keys["whole"])
    assert len(open_source(prelude["boxed"]).schema()["boxes"].classes) == clim.CLASSES
    arm = clim.claim.arms["permuted"]
    found = arm(replace(trial, folder=tmp_path / "arm", prelude=prelude))
    assert set(found) == set(clim.claim.table)
    assert all(0 <= value <= 1 for value in found.values())
