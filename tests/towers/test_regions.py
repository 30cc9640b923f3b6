"""Regions of images: boxes pooled from maps, by both routes, at any size."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import random_images, small_make

from diptych.errors import InputError
from diptych.methods.dense.clim.mosaic import tile_boxes
from diptych.methods.tuning import block_names
from diptych.towers.build import image_tower
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import Temperature
from diptych.towers.regions import (
    area_weights,
    at_any_size,
    check_side,
    dense_route,
    image_and_regions,
    pool_areas,
    pool_boxes,
    region_vectors,
)

COUNT = torch.arange(16.0).view(1, 1, 4, 4)


def encoder(image="vit:image_size=32:patch=8:width=32:depth=2:heads=2"):
    torch.manual_seed(0)
    return small_make(image).dual(logit_scale=Temperature()).eval()


def slow(grid, box):
    """RoIAlign of one box to one position: the mean of bilinear samples, as many a side as the box
    covers positions, rounded up. `grid` is a list of rows, the box in positions."""
    h, w = len(grid), len(grid[0])
    x0, y0, x1, y1 = box
    nx = max(1, math.ceil(x1 - x0))
    ny = max(1, math.ceil(y1 - y0))

    def at(y, x):
        y = min(max(y, 0.0), h - 1.0)
        x = min(max(x, 0.0), w - 1.0)
        top = math.floor(y)
        left = math.floor(x)
        under = min(top + 1, h - 1)
        right = min(left + 1, w - 1)
        first = (1 - x + left) * grid[top][left] + (x - left) * grid[top][right]
        second = (1 - x + left) * grid[under][left] + (x - left) * grid[under][right]
        return (1 - y + top) * first + (y - top) * second

    values = [
        at(y0 + (i + 0.5) * (y1 - y0) / ny - 0.5, x0 + (j + 0.5) * (x1 - x0) / nx - 0.5)
        for i in range(ny)
        for j in range(nx)
    ]
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("side", "expected"),
    [(2, {0: 2.5, 1: 4.5, 2: 10.5, 3: 12.5}), (3, {0: 1.25, 4: 7.5})],
)
def test_boxes_that_lie_between_positions_are_interpolated(side, expected):
    found = pool_boxes(COUNT, tile_boxes(side)[None])[0, :, 0]
    for at, value in expected.items():
        assert float(found[at]) == pytest.approx(value, abs=1e-6)


def test_pooling_equals_a_slow_one():
    torch.manual_seed(0)
    maps = torch.randn(2, 1, 5, 7, dtype=torch.float64)
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0], [0.35, 0.4, 0.42, 0.5]])
    found = pool_boxes(maps, boxes.expand(2, -1, -1))
    for image, grid in enumerate(maps[:, 0].tolist()):
        for row, (x0, y0, x1, y1) in enumerate(boxes.double().tolist()):
            reference = slow(grid, (7 * x0, 5 * y0, 7 * x1, 5 * y1))
            assert float(found[image, row, 0]) == pytest.approx(reference, abs=1e-9)


def test_several_positions_a_side_and_boxes_without_area():
    found = pool_boxes(COUNT, torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]]), 2)
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    assert not found[0, 1].any()


@pytest.mark.parametrize("places", range(1, 12))
def test_tiles_of_equal_positions_keep_their_value_in_float32(places):
    """With edges i / s no tile samples its neighbour, for 3 x 3 tiles either."""
    torch.manual_seed(0)
    values = torch.randn(1, 8, 3, 3)
    maps = values.repeat_interleave(places, 2).repeat_interleave(places, 3)
    torch.testing.assert_close(
        pool_boxes(maps, tile_boxes(3)[None])[0], values[0].flatten(1).T, atol=1e-6, rtol=1e-5
    )


def test_a_region_is_the_unit_pool_of_unit_positions():
    model = encoder()
    images = random_images(2)
    boxes = tile_boxes(2).expand(2, -1, -1)
    with torch.no_grad():
        encoded = model.encode_image(images, route="values")
        found = region_vectors(model, images, boxes)
        vectors = F.normalize(model.project_image(encoded.patches), dim=-1).unflatten(1, (4, 4))
    # half of four positions: each box is the mean of 2 x 2
    own = vectors[:, :2, 2:].mean((1, 2))
    torch.testing.assert_close(found[:, 1], F.normalize(own, dim=-1), atol=1e-5, rtol=1e-5)
    tokens = region_vectors(model, images, boxes, "tokens")
    assert not torch.allclose(tokens, found, atol=1e-3)


def test_an_encoder_at_any_size_shares_its_weights_and_leaves_the_first_alone():
    model = encoder()
    with pytest.raises(InputError, match="vit takes 32 x 32 pixels"):
        model.embed_images(random_images(2, 64))
    other = at_any_size(model)
    images = random_images(2)
    assert other.embed_images(random_images(2, 64)).shape == (2, 32)
    assert other.image.transformer is model.image.transformer
    assert torch.equal(other.embed_images(images), model.embed_images(images))
    with pytest.raises(InputError, match="vit takes 32 x 32 pixels"):
        model.embed_images(random_images(2, 64))
    convolutional = encoder("conv:image_size=32:widths=(8,):depths=(1,)")
    assert at_any_size(convolutional) is convolutional


def test_towers_that_have_no_positions_or_not_the_route_are_refused():
    images = random_images(1)
    box = tile_boxes(1)[None]
    with pytest.raises(InputError, match="no route 'values'; it has tokens"):
        region_vectors(encoder("conv:image_size=32:widths=(8,):depths=(1,)"), images, box, "values")
    with pytest.raises(InputError, match="size is 36 pixels, and the image tower's patches are"):
        check_side(encoder().image, 36, "size")


@pytest.mark.parametrize("separate", [True, False])
def test_the_values_of_a_pool_by_attention_are_what_it_averages(separate):
    """With queries and keys of zero it attends to all alike, the mean of the positions included."""
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    tower = image_tower("timm:test_resnet:image_size=64").eval()
    width = tower.width
    pool = layers.AttentionPool2d(width, 1, 0, head_dim=width // 2, qkv_separate=separate)
    places = layers.resample_abs_pos_embed(
        pool.pos_embed[None], [2, 2], old_size=pool.feat_size, num_prefix_tokens=1
    )
    with torch.no_grad():
        for part in (pool.q, pool.k) if separate else ():
            part.weight.zero_()
        if not separate:
            pool.qkv.weight[: 2 * width] = 0
            pool.qkv.bias[2 * width :] = torch.randn(width)
        tower.model.head = pool
        images = random_images(1, 64)
        tokens = tower.forward(images).tokens
        found = tower._values(Encoded(tokens, tokens[:, 0], grid=(2, 2)))
        values = pool.v if separate else lambda x: pool.qkv(x)[..., 2 * width :]
        mean = values(tokens.mean(1) + places[:, 0])
        pooled = pool(tokens.mT.unflatten(2, (2, 2)), pre_logits=True)
    torch.testing.assert_close(
        torch.cat([mean[:, None], found], dim=1).mean(1), pooled, atol=1e-5, rtol=1e-4
    )


def test_resnets_of_clip_have_the_route_of_values():
    pytest.importorskip("timm")
    with torch.device("meta"):
        tower = image_tower("timm:resnet50_clip:image_size=64")
    assert tower.routes == ("tokens", "values")
    assert dense_route(tower) == "values"
    assert block_names(tower)[-4:] == [f"model.stages.{at}" for at in ("2.5", "3.0", "3.1", "3.2")]


@pytest.fixture
def resnet(monkeypatch):
    """A ResNet of CLIP with one block a stage."""
    byobnet = pytest.importorskip("timm.models.byobnet")
    whole = byobnet.model_cfgs["resnet50_clip"]
    one = tuple(replace(each, d=1, c=each.c // 16) for each in whole.blocks)
    monkeypatch.setitem(byobnet.model_cfgs, "resnet50_clip", replace(whole, blocks=one))
    return encoder("timm:resnet50_clip:image_size=64").double()


def test_a_box_of_the_whole_image_is_the_image_by_crops(resnet):
    """RoIAlign of all of a map to its own size is that map."""
    images = random_images(2, 64)
    with torch.no_grad():
        image, regions = image_and_regions(resnet, images, tile_boxes(1).expand(2, -1, -1), "crops")
        assert torch.equal(F.normalize(image, dim=-1), resnet.embed_images(images))
        torch.testing.assert_close(regions[:, 0], image, atol=1e-8, rtol=1e-8)


def test_each_box_passes_the_last_stage_by_itself(resnet):
    images = random_images(2, 64)
    boxes = tile_boxes(2).expand(2, -1, -1)
    with torch.no_grad():
        found = region_vectors(resnet, images, boxes, "crops")
        alone = region_vectors(resnet, images, boxes[:, 1:2], "crops")
        maps = resnet.image.before_last(images)
        cut = pool_boxes(maps, boxes[:, 1:2], 4)[:, 0]  # as many positions as an image has there
        expected = resnet.image_vectors(resnet.image.from_last(cut))
    assert maps.shape[-2:] == (4, 4)
    torch.testing.assert_close(found[:, 1:2], alone)
    torch.testing.assert_close(alone[:, 0], F.normalize(expected, dim=-1))


def test_the_vector_of_an_image_beside_its_regions_is_its_own():
    model = encoder()
    images = random_images(2)
    with torch.no_grad():
        for route in (None, "tokens"):
            image, _ = image_and_regions(model, images, tile_boxes(2).expand(2, -1, -1), route)
            torch.testing.assert_close(F.normalize(image, dim=-1), model.embed_images(images))


def test_towers_that_do_not_split_have_no_crops():
    with pytest.raises(
        InputError, match="of a ResNet of CLIP, and this image tower has none; its ro"
    ):
        region_vectors(encoder(), random_images(1), tile_boxes(1)[None], "crops")


def test_blocks_of_other_towers():
    with torch.device("meta"):
        assert block_names(image_tower("conv:image_size=32"))[1:] == ["stages.1", "stages.2"]
    with pytest.raises(InputError, match="the blocks of an image tower of Linear are not known"):
        block_names(torch.nn.Linear(1, 1))


def test_a_box_over_two_patches_is_their_mean_and_over_one_that_patch():
    """Patches of 14 pixels, the box from 7 to 21."""
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    boxes = torch.tensor([[[7 / 28, 0, 21 / 28, 1.0], [0.5, 0, 1, 1], [0, 0, 1, 1]]])
    found = pool_areas(tokens, boxes, (1, 2))
    assert torch.equal(found, torch.tensor([[[0.5, 0.5], [0.0, 1.0], [0.5, 0.5]]]))


def covered(box, x, y, w, h):
    """The share of cell (x, y) of a grid of w x h that lies in a box of shares."""
    wide = min(box[2] * w, x + 1) - max(box[0] * w, x)
    high = min(box[3] * h, y + 1) - max(box[1] * h, y)
    return max(0.0, wide) * max(0.0, high)


@settings(max_examples=40, deadline=None)
@given(
    box=st.lists(st.floats(-0.5, 1.5), min_size=4, max_size=4),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_areas_are_exact_and_end_at_the_image(box, grid):
    box = [*map(min, box[:2], box[2:]), *map(max, box[:2], box[2:])]
    h, w = grid
    weights = area_weights(torch.tensor(box, dtype=torch.float64), grid)
    for y in range(h):
        for x in range(w):
            assert float(weights[y, x]) == pytest.approx(covered(box, x, y, w, h), abs=1e-12)
    inside = [min(max(side, 0.0), 1.0) for side in box]
    area = (inside[2] - inside[0]) * (inside[3] - inside[1])
    assert float(weights.sum()) / (h * w) == pytest.approx(area, abs=1e-12)


def test_a_box_beside_the_image_gives_zeros_and_no_gradient_of_nan():
    tokens = torch.randn(1, 4, 3, requires_grad=True)
    found = pool_areas(tokens, torch.tensor([[[1.1, 0.2, 1.4, 0.5], [0.2, 0.5, 0.2, 0.9]]]), (2, 2))
    assert not found.any()
    found.sum().backward()
    assert not tokens.grad.any()
