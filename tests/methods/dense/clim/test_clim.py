"""CLIM: regions of mosaics and single images in one batch, the blocks that are trained, and the
interpolation of weights."""

from dataclasses import replace

import pytest
import torch
from tests.factories import AT, make_batch, make_method, random_images

from diptych.data.batch import Images
from diptych.errors import InputError
from diptych.methods.base import Recipe
from diptych.objectives import info_nce
from diptych.towers.regions import pool_boxes, position_maps
from diptych.training import optim

VIT = "vit:image_size=32:patch=8:width=32:depth=3:heads=2"
# without a look beyond a patch: what is at a position is what is in it
ALONE = "conv:image_size=24:widths=(16,):depths=(1,):kernel=1"


def method(image=VIT, **config):
    return make_method("clim", image=image, **config).eval()


def batch_of(pixels):
    texts = make_batch(len(pixels), {}, {"main": 1})
    return replace(texts, images={"main": Images(pixels[:, None])})


def of_one_colour(count, side):
    torch.manual_seed(0)
    colours = torch.randint(0, 256, (count, 3, 1, 1), dtype=torch.uint8)
    return colours.expand(-1, -1, side, side)


@pytest.mark.parametrize("side", [2, 3, 4])
def test_without_neighbours_tiles_are_the_images_in_float32(side):
    """If no token sees another tile, and those of a tile are equal, the loss is CLIP's."""
    made = method(ALONE, choices=(side,), group=side**2, size=24 * side)
    batch = batch_of(of_one_colour(2 * side**2, 24))
    with torch.no_grad():
        features = made.encode(batch, AT)
        images = made.model.embed_images(batch.image.flat)
        found = made.loss(features, batch, AT).total
        expected = info_nce(images, features["text"], made.model.logit_scale())
    torch.testing.assert_close(features["image"], images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_vectors_keep_the_order_of_the_captions():
    """Tiles of three sizes of mosaics and three single images, in two groups."""
    made = method(ALONE, choices=(2, 3, 4), group=32, size=96)
    batch = batch_of(of_one_colour(64, 24))
    with torch.no_grad():
        found = made.encode(batch, AT)["image"]
        images = made.model.embed_images(batch.image.flat)
    assert (found @ images.T).argmax(1).tolist() == list(range(64))


def test_a_batch_equals_one_that_is_put_together_slowly():
    made = method(choices=(2, 3), group=15, size=48).double()
    batch = batch_of(random_images(30))
    with torch.no_grad():
        found = made.encode(batch, AT)["image"]
        expected = torch.cat([slow(made, group) for group in batch.image.flat.split(15)])
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def slow(made, images):
    """The vectors of a group, mosaic by mosaic and tile by tile."""
    pixels = made.model.image.pixels(images)
    vectors = []
    for side, first in ((2, 0), (3, 4)):
        canvas = torch.zeros(1, 3, 32 * side, 32 * side, dtype=torch.float64)
        for at in range(side**2):
            row, column = divmod(at, side)
            canvas[0, :, row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = pixels[
                first + at
            ]
        mosaic = torch.nn.functional.interpolate(canvas, (48, 48), mode="bicubic", antialias=True)
        maps = position_maps(made.model, mosaic, "values")
        for row in range(side):
            for column in range(side):
                box = torch.tensor([column, row, column + 1, row + 1], dtype=torch.float64) / side
                vectors.append(pool_boxes(maps, box[None, None])[0])
    singles = made.model.embed_images(images[13:])
    return torch.cat([torch.nn.functional.normalize(torch.cat(vectors), dim=-1), singles])


def test_only_the_last_blocks_and_the_scale_are_trained():
    made = method(choices=(2,), group=6, size=32, blocks=2, alpha=1.0).train()
    [stage] = made.stages()
    optim.freeze(made, stage.lr_scale)
    optimizer = optim.build(made, Recipe(lr=0.1), stage.lr_scale)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    batch = batch_of(random_images(12))
    losses = made.loss(made.encode(batch, AT), batch, AT)
    losses.total.backward()
    optimizer.step()
    assert not any(parameter.grad is not None for parameter in made.model.text.parameters())
    moved = {
        name
        for name, value in made.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    learnt = {
        name
        for name, _ in made.model.named_parameters()
        if name == "logit_scale.value"
        or name.startswith(("image.transformer.layers.1", "image.transformer.layers.2"))
    }
    assert moved == learnt
    assert not made.model.text.training


def test_weights_are_interpolated():
    made = method(choices=(2,), group=4, alpha=0.7)
    before = made.before.module
    with torch.no_grad():
        for value in before.parameters():
            value.fill_(1)
        for value in (*made.model.image.parameters(), *made.model.logit_scale.parameters()):
            value.fill_(2)
    texts = [value.clone() for value in made.model.text.parameters()]
    _, mix = made.stages()
    mix.prepare(None)
    for value in (*made.model.image.parameters(), made.model.logit_scale.value):
        torch.testing.assert_close(value, torch.full_like(value, 1.7))
    assert all(map(torch.equal, texts, made.model.text.parameters()))


def test_a_group_without_single_images_leaves_parameters_unused():
    assert method(choices=(2,), group=4).find_unused_parameters
    assert not method(choices=(2,), group=5).find_unused_parameters


def test_batches_are_whole_groups():
    made = method(choices=(2,), group=5)
    stage = made.stages()[0]
    assert stage.min_batch == 5
    with pytest.raises(InputError, match="a batch of 6 images is not made of groups of 5"):
        made.encode(batch_of(random_images(6)), AT)


def test_tiles_may_be_smaller_than_the_towers_images():
    made = method(choices=(2,), group=4, tile=16)
    assert (made.tile, made.size) == (16, 64)
    [images, _] = made.views(made.stages()[0])
    assert images.preprocess.size == 16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"group": 28}, "28 images make no mosaics"),
        ({"choices": ()}, "choices is empty"),
        ({"choices": (0, 2)}, "choices"),
        ({"tags": "cat,dog"}, "task is 'clip'; add --method.task detect"),
        ({"decay": 0.5}, "decay is 0.5, and the last blocks are trained at one rate"),
        (
            {"choices": (2,), "group": 4, "size": 60},
            "method.size is 60 pixels, and the image tower's",
        ),
        (
            {"choices": (2,), "group": 4, "tile": 12},
            "method.tile is 12 pixels, and the image tower's",
        ),
    ],
)
def test_options_that_make_no_mosaics_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        method(**config)
