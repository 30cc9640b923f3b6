"""The 3D residual network: its map, its parameters, shortcuts of type A with and without a gradient,
and the pool over zeros."""

import pytest
import torch
import torch.nn.functional as F

from diptych.errors import InputError
from diptych.towers.build import image_tower
from diptych.towers.image.resnet3d import Block, shortcut


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def tower(**options):
    small = {"image_size": 16, "slices": 8, "widths": [4, 6, 10], "depths": [1, 2, 1], "stem": 3}
    return image_tower({"name": "resnet3d", **small, **options}).double()


def test_the_published_size_has_a_map_of_1_4_4_and_its_parameters():
    with torch.device("meta"):
        full = image_tower("resnet3d")
        encoded = full(torch.zeros(1, 1, 32, 128, 128))
        assert full.embed(torch.zeros(1, 1, 32, 128, 128)).shape == (1, 64, 8, 32, 32)
    assert encoded.tokens.shape == (1, 1 * 4 * 4, 512)
    assert encoded.pooled.shape == (1, 512)
    count = 343 * 64 + 2 * 64
    before = 64
    for width in (64, 128, 256, 512):
        count += 27 * before * width + 3 * 27 * width * width + 4 * 2 * width
        before = width
    assert sum(p.numel() for p in full.parameters()) == count == 32_986_176


def test_the_first_map_is_pooled_over_a_border_of_zeros():
    made = tower()
    x = torch.rand(2, 1, 8, 16, 16, dtype=torch.float64)
    before = F.relu(made.norm(made.stem(x)))
    torch.testing.assert_close(made.embed(x), F.max_pool3d(F.pad(before, (1,) * 6), 3, 2))


def test_a_shortcut_takes_every_second_position_and_adds_channels_of_zeros():
    x = torch.rand(2, 3, 5, 4, 6)
    found = shortcut(x, 7, 2)
    assert found.shape == (2, 7, 3, 2, 3)
    for c in range(7):
        for d, h, w in ((0, 0, 0), (2, 1, 2), (1, 1, 0)):
            expected = x[:, c, 2 * d, 2 * h, 2 * w] if c < 3 else torch.zeros(2)
            assert torch.equal(found[:, c, d, h, w], expected)
    assert shortcut(x, 3, 1) is x


def test_no_gradient_flows_through_a_detached_shortcut():
    x = torch.rand(4, 4, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    gradients = {}
    for detached in (False, True):
        torch.manual_seed(1)
        block = Block(4, 6, 2, detached).double()
        block.norm2.weight.data.zero_()  # what is left is the shortcut
        block.norm2.bias.data.fill_(1.0)
        [gradients[detached]] = torch.autograd.grad(block(x).sum(), x)
    assert not gradients[True].any()
    every = torch.zeros_like(x)
    every[:, :, ::2, ::2, ::2] = 1
    torch.testing.assert_close(gradients[False], every)
    alike = Block(4, 4, 1, True).double()  # a shortcut without a change is never detached
    alike.norm2.weight.data.zero_()
    alike.norm2.bias.data.fill_(1.0)
    assert torch.autograd.grad(alike(x).sum(), x)[0].all()


def test_values_do_not_depend_on_whether_shortcuts_are_detached():
    x = torch.rand(2, 1, 8, 16, 16, dtype=torch.float64)
    one = tower()
    other = tower(detached_shortcut=True)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x).pooled, other(x).pooled)
    torch.testing.assert_close(one(x).pooled, one(x).tokens.mean(1))


def test_bad_options_and_inputs_are_refused():
    for options, match in (
        ({"widths": [4, 8]}, "2 widths but 3 depths"),
        ({"widths": [8, 4, 8]}, "fall"),
        ({"stem": 4}, "odd"),
        ({"scaled_size": 8}, "cannot be cropped"),
    ):
        with pytest.raises(InputError, match=match):
            tower(**options)
    with pytest.raises(InputError, match="reads volumes"):
        tower()(torch.zeros(1, 3, 16, 16))
    with pytest.raises(InputError, match="tokens to edit"):
        tower()(torch.zeros(1, 1, 8, 16, 16), edit=lambda layer, x: x)
