"""The vision transformer."""

import pytest
import torch

from diptych.errors import InputError
from diptych.towers.build import image_tower
from diptych.towers.image.vit import interpolate
from diptych.towers.nn.edits import Insert, chain

SMALL = {"name": "vit", "image_size": 16, "patch": 4, "width": 32, "depth": 3, "heads": 4}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def vit(**options):
    return image_tower({**SMALL, **options}).eval()


def images(n=3, size=16):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)


FORMS = [
    {},
    {"cls": 0, "pooling": "map", "eps": 1e-6},
    {"cls": 0, "pooling": "mean", "norm_after_pool": True},
    {"pre_norm": True, "cls_position": True, "patch_bias": False, "activation": "quick_gelu"},
    {"cls": 2, "registers": 3, "layer_scale": 1.0, "mask_token": True},
    {"stem": "conv", "pooling": "mean"},
    {"pooling": "queries", "queries": 3, "pool_width": 24, "pool_heads": 2},
    {"final_norm": False},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_three_steps_compose_to_forward(form):
    tower, x = vit(**form), images()
    whole = tower(x)
    steps = tower.finish(tower.blocks(tower.embed(x)), tower.grid(x))
    assert torch.equal(whole.tokens, steps.tokens)
    assert torch.equal(whole.pooled, steps.pooled)
    assert whole.grid == (4, 4)
    assert whole.patches.shape == (3, 16, 32)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_sample_alone_equals_the_sample_in_a_batch(form):
    tower, x = vit(**form), images(5)
    torch.testing.assert_close(tower(x[2:3]).pooled, tower(x).pooled[2:3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_spec_rebuilds_the_tower(form):
    tower = vit(**form)
    again = image_tower(tower.spec).eval()
    assert again.spec == tower.spec
    again.load_state_dict(tower.state_dict())
    x = images()
    assert torch.equal(again(x).pooled, tower(x).pooled)


def test_uint8_is_normalised_by_the_tower_and_floats_are_taken_as_they_are():
    tower, x = vit(), images()
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (tower.preprocess.mean, tower.preprocess.std)
    )
    torch.testing.assert_close(tower(x).pooled, tower((x / 255 - mean) / std).pooled)


def test_pooled_is_what_its_name_says():
    x = images()
    tower = vit(cls=2)
    assert torch.equal(tower(x).pooled, tower(x).tokens[:, :2])
    tower = vit(pooling="mean", cls=1, registers=2)
    torch.testing.assert_close(tower(x).pooled, tower(x).tokens[:, 3:].mean(1))
    tower = vit(pooling="mean", norm_after_pool=True)
    raw = tower.blocks(tower.embed(x))
    torch.testing.assert_close(tower(x).pooled, tower.norm(raw[:, 1:].mean(1)))


def test_cls_tokens_without_positions_are_the_parameters_themselves():
    tower = vit(cls=2, registers=1)
    tokens = tower.embed(images())
    assert torch.equal(tokens[1, :3], torch.cat([tower.cls, tower.registers]))


def test_patch_dropout_leaves_out_patches_only_while_training():
    tower, x = vit(patch_dropout=0.5, pooling="mean"), images()
    assert tower(x).tokens.shape[1] == 17
    tower.train()
    encoded = tower(x)
    assert encoded.tokens.shape[1] == 9
    assert encoded.grid is None
    assert not torch.equal(encoded.pooled, tower(x).pooled)


def test_hidden_patches_become_the_mask_token_before_positions():
    tower, x = vit(mask_token=True), images()
    hidden = torch.zeros(3, 16, dtype=torch.bool)
    hidden[0, 5] = hidden[1, 2:9] = True
    other = x.clone()
    other[0, :, 4:8, 4:8] = 0  # patch 5
    assert torch.equal(tower(x, hidden=hidden).pooled[0], tower(other, hidden=hidden).pooled[0])
    assert not torch.equal(tower(x).pooled[0], tower(other).pooled[0])
    torch.testing.assert_close(tower.embed(x, hidden)[0, 6], tower.mask_token + tower.positions[5])
    assert tower(x, hidden=hidden).grid == (4, 4)


def test_hidden_patches_are_left_out_without_a_mask_token():
    tower, x = vit(), images()
    hidden = torch.rand(3, 16).argsort(1) < 12
    encoded = tower(x, hidden=hidden)
    assert encoded.tokens.shape[1] == 5
    assert torch.equal(tower.embed(x, hidden)[1, 1:], tower.embed(x)[1, 1:][~hidden[1]])
    hidden[0] = False
    with pytest.raises(InputError, match="as many"):
        tower(x, hidden=hidden)


def test_other_sizes_are_refused_until_the_tower_is_resized():
    tower, x = vit(cls_position=True), images(2, 24)
    with pytest.raises(InputError, match=r"takes 16 x 16 pixels, got 24 x 24; tower.resize\(24\)"):
        tower(x)
    before = tower.positions[:1].clone()
    tower.resize(24)
    assert tower(x).grid == (6, 6)
    assert torch.equal(tower.positions[:1], before)
    assert tower.image_size == tower.spec["image_size"] == tower.spec["preprocess"]["size"] == 24
    image_tower(tower.spec).load_state_dict(tower.state_dict())


def test_without_a_final_norm_tokens_are_those_of_the_last_block():
    x = images()
    normed = vit()
    bare = vit(final_norm=False)
    bare.load_state_dict({n: v for n, v in normed.state_dict().items() if n[:5] != "norm."})
    assert torch.equal(bare(x).tokens, normed(x).raw)
    assert bare.spec["final_norm"] is False
    assert "final_norm" not in normed.spec  # checksums of saved models stay


def test_crops_of_several_sizes_pass_one_tower_that_takes_any_size():
    """TIPS: global crops and smaller local crops through the same student; positions are
    interpolated on the fly."""
    tower = vit(any_size=True, cls=2)
    assert tower(images(2, 16)).pooled.shape == (2, 2, 32)
    small = tower(torch.zeros(2, 3, 8, 12))
    assert small.grid == (2, 3)
    expected = interpolate(tower.positions, (2, 3))
    with torch.no_grad():
        tower.patch_embed.weight.zero_()
        tower.patch_embed.bias.zero_()
    torch.testing.assert_close(tower.embed(torch.zeros(1, 3, 8, 12))[0, 2:], expected)


def test_the_map_head_is_attention_of_its_probe_and_a_residual_feed_forward():
    """Written out for one head, whose probe and layers are any: softmax over all tokens, then x +
    mlp(norm(x))."""
    pool = vit(pooling="map", cls=0, heads=1).pool.double()
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    tokens = torch.randn(2, 5, 32, dtype=torch.float64)
    attn, mlp = pool.attn, pool.mlp
    weights = (attn.q(pool.probe) @ attn.k(tokens).mT / 32**0.5).softmax(-1)
    x = attn.out(weights @ attn.v(tokens))[:, 0]
    expected = x + mlp.fc2(torch.nn.functional.gelu(mlp.fc1(pool.norm(x))))
    torch.testing.assert_close(pool(tokens), expected)


def test_interpolation_to_another_shape_keeps_rows_and_columns_apart():
    """A ramp downwards beside one to the right, on a grid that is higher than wide: each varies
    along its own side."""
    down, right = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    ramps = torch.stack([down, right])
    moved = interpolate(ramps.flatten(1).T, (6, 3)).T.unflatten(1, (6, 3))
    expected = torch.nn.functional.interpolate(
        ramps[None], size=(6, 3), mode="bicubic", antialias=True
    )[0]
    torch.testing.assert_close(moved, expected)
    assert (moved[0].diff(dim=0) > 0).all()
    assert (moved[1].diff(dim=1) > 0).all()
    torch.testing.assert_close(moved[0], moved[0, :, :1].expand(6, 3))
    torch.testing.assert_close(moved[1], moved[1, :1].expand(6, 3))


def test_interpolation_keeps_a_grid_of_equal_size_and_a_constant():
    positions = torch.randn(16, 3)
    assert interpolate(positions, (4, 4)) is positions
    torch.testing.assert_close(
        interpolate(torch.full((16, 3), 0.7), (7, 2)), torch.full((14, 3), 0.7)
    )


def test_maple_appends_prompts_that_masked_keys_undo():
    """MaPLe: prompts appended after positions, replaced in each layer; hidden from all queries,
    they change nothing."""
    tower, x, b = vit(pre_norm=True, cls_position=True), images(), 2
    deep = [torch.randn(b, 32) for _ in range(3)]
    edit = chain(
        Insert(tower.pre_norm(deep[0]), 0, -1, "after"),
        Insert(deep[1], 1, -b),
        Insert(deep[2], 2, -b),
    )
    seen = {}

    def spy(layer, tokens):
        seen[layer] = edit(layer, tokens)
        return seen[layer]

    prompted = tower(x, edit=spy)
    assert [tokens.shape[1] for tokens in seen.values()] == [17 + b] * 3
    assert torch.equal(seen[2][1, -b:], deep[2])
    assert prompted.patches.shape == (3, 16, 32)
    assert not torch.allclose(prompted.pooled, tower(x).pooled)
    keys = (torch.arange(17 + b) < 17).expand(3, -1)
    torch.testing.assert_close(tower(x, edit=edit, mask=keys).pooled, tower(x).pooled)


def test_appended_prompts_do_not_enter_the_mean_over_patches():
    tower, x = vit(pooling="mean", patch_dropout=0.5), images()
    prompt = Insert(torch.randn(2, 32), 0, -1, "after")
    for mode in (False, True):
        tower.train(mode)
        encoded = tower(x, edit=prompt)
        torch.testing.assert_close(encoded.pooled, encoded.tokens[:, 1:-2].mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 8}, "did you mean 'width'"),
        ({"pooling": "clss"}, "did you mean 'cls'"),
        ({"cls": 0}, "has none"),
        ({"patch": 32}, "holds no patch"),
        ({"pooling": "queries", "queries": 2}, "give all three"),
        ({"width": "abc"}, "image tower 'vit'"),
        ({"patch_dropout": 1.0}, "below 1"),
        ({"stem": "conv", "patch": 5}, "power of 2"),
        ({"preprocess": {"size": 32}}, "make them equal"),
    ],
)
def test_bad_options_name_thing_and_remedy(options, message):
    with pytest.raises(InputError, match=message):
        vit(**options)


def strips(n=3, height=8, width=32):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8)


def test_images_of_two_sides_have_a_grid_of_two_sides():
    tower = vit(image_size=(8, 32))
    encoded = tower(strips())
    assert encoded.grid == (2, 8)
    assert encoded.patches.shape == (3, 16, 32)
    assert tower.preprocess.shape == (3, 8, 32)
    again = image_tower({**tower.spec, "image_size": [8, 32]})  # as JSON has it
    again.load_state_dict(tower.state_dict())
    assert again.spec == tower.spec
    with pytest.raises(
        InputError, match=r"takes 8 x 32 pixels, got 32 x 8; tower.resize\(\(32, 8\)"
    ):
        tower(strips(1, 32, 8))
    with pytest.raises(InputError, match="square images, and this one's are 8 x 32"):
        _ = tower.image_size


def test_positions_of_a_grid_of_two_sides_belong_to_their_places():
    """Row y, column x: a tower of which the patches say nothing is told places by positions alone."""
    tower = vit(image_size=(8, 12))
    with torch.no_grad():
        tower.patch_embed.weight.zero_()
        tower.patch_embed.bias.zero_()
    rows = tower.embed(strips(1, 8, 12))[0, 1:].view(2, 3, -1)
    for y in range(2):
        for x in range(3):
            assert torch.equal(rows[y, x], tower.positions[3 * y + x])


def test_a_tower_is_resized_to_other_sides():
    tower = vit(cls_position=True)
    before = tower.positions.detach().clone()
    tower.resize((8, 32))
    assert tower(strips()).grid == (2, 8)
    assert torch.equal(tower.positions[1:], interpolate(before[1:], (2, 8)))
    tower.resize((8, 16))
    assert torch.equal(
        tower.positions[1:], interpolate(interpolate(before[1:], (2, 8)), (2, 4), (2, 8))
    )
    assert tuple(tower.spec["image_size"]) == (8, 16)
    with pytest.raises(InputError, match="holds no patch"):
        tower.resize((2, 16))


@pytest.mark.parametrize("form", [form for form in FORMS if "stem" not in form], ids=str)
def test_what_is_not_real_changes_nothing(form):
    """A strip whose patches behind the third are noise, and one that is grey there. (The convolutions of
    a stem reach over the border.)"""
    tower = vit(**form, image_size=(4, 24))
    strip = strips(1, 4, 24).repeat(2, 1, 1, 1)
    strip[1, :, :, 12:] = 7
    real = torch.arange(6).expand(2, -1) < 3
    one, other = tower(strip, real=real).pooled
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    all_of_them = torch.ones(2, 6, dtype=torch.bool)
    assert not torch.allclose(*tower(strip, real=all_of_them).pooled)
    torch.testing.assert_close(tower(strip, real=all_of_them).pooled, tower(strip).pooled)


def test_pooling_is_the_mean_of_the_real_slice():
    tower = vit(image_size=(4, 24), pooling="mean", cls=2)
    real = torch.tensor([[True, True, False, True, False, False]])
    encoded = tower(strips(1, 4, 24), real=real)
    slow = sum(encoded.tokens[0, 2 + place] for place in (0, 1, 3)) / 3
    torch.testing.assert_close(encoded.pooled[0], slow)
    # the strip is cut behind its last real patch
    assert encoded.mask.tolist() == [[True, True, True, True, False, True]]
    assert encoded.grid == (1, 4)
    page = vit(image_size=(8, 12), pooling="mean")(strips(1, 8, 12), real=real)
    assert page.grid == (2, 3)
    slow = sum(page.tokens[0, 1 + place] for place in (0, 1, 3)) / 3
    torch.testing.assert_close(page.pooled[0], slow)


def test_real_patches_are_those_left_of_hidden_ones_too():
    tower = vit(image_size=(4, 24), pooling="mean")
    strip = strips(2, 4, 24)
    real = torch.arange(6).expand(2, -1) < torch.tensor([[3], [5]])
    hidden = torch.tensor([[0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 0, 1]]).bool()
    encoded = tower(strip, hidden=hidden, real=real)
    assert encoded.mask[:, 1:].tolist() == [[True, True, False, False], [True, True, True, True]]
    torch.testing.assert_close(encoded.pooled[0], encoded.tokens[0, 1:3].mean(0))


def test_random_patches_are_not_left_out_of_what_is_real():
    tower = vit(image_size=(4, 24), patch_dropout=0.5).train()
    with pytest.raises(InputError, match="patch_dropout=0"):
        tower(strips(1, 4, 24), real=torch.ones(1, 6, dtype=torch.bool))


def test_by_values_each_token_attends_to_itself_alone_in_the_last_block():
    tower, x = vit(cls=2, layer_scale=0.7), images()
    usual, values = tower(x), tower(x, route="values")
    assert torch.equal(values.pooled, usual.pooled)
    before = tower.blocks(tower.embed(x), stop=2)
    alone = torch.eye(18, dtype=torch.bool)[None]
    expected = tower.norm(tower.transformer.layers[2](before, mask=alone))
    torch.testing.assert_close(values.tokens, expected)
    assert not torch.allclose(values.patches, usual.patches, atol=1e-3)
    prompt = Insert(torch.randn(1, 32), layer=2, at=-1)
    edited = tower(x, edit=prompt, route="values").tokens
    assert torch.equal(edited[:, :-1], values.tokens[:, :-1])
    assert not torch.equal(edited[:, -1], values.tokens[:, -1])


def test_positions_between_grids_may_be_bilinear_and_cls_tokens_zero():
    tower = vit(any_size=True, interpolation="bilinear", cls=2, cls_std=0)
    assert not tower.cls.any()
    grid = tower.positions.T.reshape(1, 32, 4, 4)
    options = {"mode": "bilinear", "antialias": True}
    expected = torch.nn.functional.interpolate(grid, (6, 6), **options)[0].flatten(1).T
    blank = torch.zeros(1, 3, 24, 24)
    patches = tower.patch_embed(blank).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tower.embed(blank)[:, 2:], patches + expected)
    tower.resize(24)
    torch.testing.assert_close(tower.positions, expected)
    assert "interpolation" not in vit().spec  # the specs of saved models stay as they are
