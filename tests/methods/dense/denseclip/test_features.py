"""What is read of image towers: blocks of a ViT, and the rows of a ResNet's attention pool."""

import pytest
import torch
from tests.factories import random_images, small_make

from diptych.errors import InputError
from diptych.methods.dense.denseclip.features import (
    dense_features,
    map_widths,
    pool_rows,
    prepared,
    tap_counts,
    tapped,
)
from diptych.towers.nn.parts import Temperature

VIT = "vit:image_size=32:patch=8:width=32:depth=6:heads=2"
CONV = "conv:image_size=32:widths=(8,12,16):depths=(1,1,1)"
RESNET = "timm:resnet50_clip:image_size=64"


def encoder(image, embed_dim=32):
    torch.manual_seed(0)
    made = small_make(image, embed_dim=embed_dim).dual(logit_scale=Temperature())
    prepared(made.image, None)
    return made.eval()


def test_maps_are_taken_after_the_published_blocks():
    assert tap_counts(12) == (4, 6, 8, 12)  # blocks 3, 5, 7 and 11 from 0


def test_taps_are_the_patches_between_blocks():
    made = encoder(VIT)
    tower = made.image
    x = random_images(2)
    with torch.no_grad():
        encoded, maps = tapped(made, x, (2, 3, 6))
        tokens = tower.embed(x)
        for count, found in zip((2, 3, 6), maps, strict=True):
            expected = tower.blocks(tokens, stop=count)[:, 1:]
            torch.testing.assert_close(found.flatten(2).mT, expected)
        torch.testing.assert_close(encoded.tokens, tower(x).tokens)


def test_the_positions_of_a_vit_are_its_projected_patches():
    made = encoder(VIT)
    x = random_images(2)
    with torch.no_grad():
        found = dense_features(made, x)
        encoded = made.encode_image(x)
        torch.testing.assert_close(found.vector, made.project_image(encoded.pooled))
        patches = made.project_image(encoded.patches)
    torch.testing.assert_close(found.positions.flatten(2).mT, patches)
    assert [tuple(each.shape) for each in found.maps] == [(2, 32, 4, 4)] * 4
    assert map_widths(made) == (32,) * 4


def test_a_convolutional_tower_gives_its_stages():
    made = encoder(CONV)
    found = dense_features(made, random_images(2))
    assert [tuple(each.shape) for each in found.maps] == [
        (2, 8, 8, 8),
        (2, 12, 4, 4),
        (2, 16, 2, 2),
    ]
    assert found.positions.shape == (2, 32, 2, 2)
    assert map_widths(made) == (8, 12, 16)


@pytest.fixture(scope="module")
def resnet():
    return encoder(RESNET, embed_dim=64)


def test_the_first_row_of_the_attention_pool_is_the_pooled_vector(resnet):
    x = random_images(2, size=64)
    with torch.no_grad():
        encoded = resnet.encode_image(x)
        rows = pool_rows(resnet.image.model.head, encoded.levels[-1])
        torch.testing.assert_close(rows[:, 0], encoded.pooled, atol=1e-5, rtol=1e-4)
        found = dense_features(resnet, x)
        torch.testing.assert_close(
            found.vector, resnet.project_image(encoded.pooled), atol=1e-5, rtol=1e-4
        )
    assert [each.shape[1] for each in found.maps] == [256, 512, 1024, 2048]
    assert [each.shape[-1] for each in found.maps] == [16, 8, 4, 2]


def test_each_row_is_the_attention_of_its_position(resnet):
    """In loops over the queries and heads, at another grid than the pool's own."""
    pool = resnet.image.model.head
    x = torch.randn(1, 2048, 1, 3)
    with torch.no_grad():
        rows = pool_rows(pool, x)[0]
        places = pool.pos_embed[1:].T.reshape(1, 2048, 2, 2)
        wide = torch.nn.functional.interpolate(places, (1, 3), mode="bilinear")[0, :, 0].T
        tokens = torch.cat([x[0, :, 0].mean(1)[None], x[0, :, 0].T])
        tokens = tokens + torch.cat([pool.pos_embed[:1], wide])
        q, k, v = (
            (part(tokens) for part in (pool.q, pool.k, pool.v))
            if pool.qkv is None
            else pool.qkv(tokens).chunk(3, -1)
        )
        side = pool.head_dim
        for row in range(4):
            for head in range(0, pool.embed_dim, side):
                at = slice(head, head + side)
                weights = (k[:, at] @ q[row, at] / side**0.5).softmax(0)
                torch.testing.assert_close(rows[row, at], weights @ v[:, at], atol=1e-4, rtol=1e-3)


def test_sizes_change_with_positions_in_place():
    made = encoder(VIT)
    prepared(made.image, 48)
    assert made.image.image_size == 48
    assert dense_features(made, random_images(1, size=48)).positions.shape == (1, 32, 6, 6)
    with pytest.raises(
        InputError, match="method.size is 20 pixels, and the image tower's patches are of 8"
    ):
        prepared(made.image, 20)
    other = encoder(CONV)
    prepared(other.image, 64)
    assert other.image.spec["preprocess"]["size"] == 64
    assert dense_features(other, random_images(1, size=64)).positions.shape == (1, 32, 4, 4)


def test_a_tower_of_one_map_is_refused():
    made = encoder("conv:image_size=32:widths=(8,):depths=(1,)")
    with pytest.raises(InputError, match="no maps of several scales"):
        map_widths(made)
