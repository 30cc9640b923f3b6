"""The ablations of the claim of clim change what they say, and nothing else."""

from functools import partial

import torch
from tests.factories import AT, make_batch, make_method

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
