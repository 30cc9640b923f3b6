"""The convolutional tower."""

import pytest
import torch

from diptych.errors import InputError
from diptych.towers.build import image_tower

FORMS = [
    {},
    {"kernel": 5, "stem_kernel": 7},
    {"pooling": "max", "stem": 2, "stem_kernel": 3},
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def conv(**options):
    return image_tower(
        {"name": "conv", "image_size": 32, "widths": [8, 12, 16], "depths": [1, 0, 2], **options}
    )


def images(n=3):
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_levels_halve_and_the_last_is_what_tokens_and_pooled_come_from(form):
    tower, x = conv(**form), images()
    encoded = tower(x)
    side = 32 // tower.config.stem
    assert [tuple(level.shape) for level in encoded.levels] == [
        (3, 8, side, side),
        (3, 12, side // 2, side // 2),
        (3, 16, side // 4, side // 4),
    ]
    assert encoded.grid == (side // 4, side // 4)
    flat = encoded.levels[-1].flatten(2).mT
    torch.testing.assert_close(encoded.patches, tower.norm(flat))
    pooled = flat.amax(1) if tower.config.pooling == "max" else flat.mean(1)
    torch.testing.assert_close(encoded.pooled, tower.norm(pooled))
    steps = tower.finish(tower.blocks(tower.embed(x)))
    assert torch.equal(steps.pooled, encoded.pooled)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_no_term_mixes_samples_even_while_training(form):
    tower, x = conv(**form).train(), images(5)
    torch.testing.assert_close(tower(x[1:2]).pooled, tower(x).pooled[1:2], atol=1e-5, rtol=0)
    assert not tower.mixes_samples


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_spec_rebuilds_the_tower(form):
    tower, x = conv(**form), images()
    again = image_tower(tower.spec)
    assert again.spec == tower.spec
    again.load_state_dict(tower.state_dict())
    torch.testing.assert_close(again(x).pooled, tower(x).pooled)


def test_maps_stay_channels_last_in_memory():
    tower = conv()
    assert all(
        level.is_contiguous(memory_format=torch.channels_last) for level in tower(images()).levels
    )


def test_widths_and_depths_are_read_from_one_word():
    tower = image_tower("conv:image_size=16:widths=(8,16):depths=(1,1):kernel=5")
    assert tower.spec["widths"] == [8, 16]
    assert image_tower("conv:image_size=16:widths=8:depths=1").width == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": [1]}, "3 widths but 1 depths"),
        ({"pooling": "men"}, "did you mean 'mean'"),
        ({"kernel": 4}, "even"),
        ({"image_size": 8}, "below its stride 16"),
        ({"wdths": [1]}, "did you mean 'widths'"),
    ],
)
def test_bad_options_name_thing_and_remedy(options, message):
    with pytest.raises(InputError, match=message):
        conv(**options)


def test_prompts_and_hidden_patches_are_refused():
    with pytest.raises(InputError, match="choose image tower vit"):
        conv()(images(), edit=lambda layer, x: x)
