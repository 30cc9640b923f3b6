"""Sizes of maps, and parameters that nothing depends on."""

import torch

from diptych.models.blank import encoded_blank, unread
from diptych.towers.build import image_tower


def test_a_blank_image_leaves_modes_and_statistics():
    tower = image_tower("conv:image_size=32:widths=(8,16):depths=(1,1)").train()
    tower.stages[0].add_module("norm", torch.nn.BatchNorm2d(8))
    before = tower.stages[0].norm.running_var.clone()
    assert encoded_blank(tower).grid == (4, 4)
    assert torch.equal(tower.stages[0].norm.running_var, before)
    assert all(part.training for part in tower.modules())


def test_parameters_behind_the_pooling_are_unread():
    tower = image_tower("vit:image_size=32:patch=16:width=32:depth=1:heads=2:pooling=map")
    encoded = encoded_blank(tower)
    found = {id(each) for each in unread(tower, [encoded.patches])}
    assert found == {id(each) for each in tower.pool.parameters()}
    encoded = encoded_blank(tower)
    assert not unread(tower, [encoded.patches, encoded.pooled])
