"""Crops of an image and its mask: both move together, and what is no class stays none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Plane

from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Sample
from diptych.errors import InputError
from diptych.methods.dense.denseclip.views import Crops, MaskView, distorted
from diptych.spec import configure

SHADES = np.array([0, 60, 120, 180], np.uint8)


def sample(mask, image=None):
    pixels = np.repeat(SHADES[mask][..., None], 3, axis=2) if image is None else image
    return Sample(
        key="a",
        source="x",
        images={"main": Plane(pixels)},
        masks={"class": Plane(mask.astype(np.uint8))},
    )


def view(side=16, classes=4, **crops):
    settings = Crops(**{"photometric": False, **crops})
    preprocess = Preprocess(size=side, mean=(1.0, 1.0, 1.0))
    return MaskView(
        preprocess=preprocess,
        mask="class",
        classes=[str(at) for at in range(classes)],
        crops=settings,
    )


def quarters(height, width):
    rows = np.arange(height)[:, None] >= height // 2
    return rows * 2 + (np.arange(width) >= width // 2)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), wide=st.booleans())
def test_pixels_and_classes_move_together(seed, wide):
    """Each shade of grey is one class, but where two are interpolated."""
    mask = quarters(24, 64) if wide else quarters(48, 24)
    found = view()(sample(mask), np.random.default_rng(seed), 0.5)
    pixels = found["images.main"][0].permute(1, 2, 0).numpy()
    plane = found["fields.mask"].numpy()
    assert pixels.shape == (16, 16, 3)
    assert plane.dtype == np.uint8
    known = plane != 255
    assert (pixels[~known] == 255).mean() > 0.85 if (~known).any() else known.all()
    off = np.abs(pixels[known].astype(int) - SHADES[plane[known]][:, None]).max(1)
    # a border crosses at most two lines of the crop, and is smeared over some pixels
    assert (off > 6).mean() < 0.5
    assert (off <= 6).any()


def test_outside_training_it_is_the_centre():
    mask = quarters(16, 32)
    found = view()(sample(mask), np.random.default_rng(0), None)
    assert torch.equal(found["fields.mask"], torch.from_numpy(mask[:, 8:24].astype(np.uint8)))
    assert torch.equal(found["images.main"][0, 0], torch.from_numpy(SHADES[mask][:, 8:24]))


def test_half_of_the_images_are_mirrored():
    mask = quarters(16, 16)
    made = view(scale=(1.0, 1.0), most=1.0)
    rng = np.random.default_rng(0)
    lefts = [int(made(sample(mask), rng, 0.5)["fields.mask"][0, 0]) for _ in range(40)]
    assert 10 < lefts.count(1) < 30
    assert set(lefts) == {0, 1}


def test_a_crop_that_one_class_fills_is_drawn_again():
    """Class 1 lies in a sixteenth of the image; few crops of a quarter of the side show it."""
    mask = np.zeros((64, 64), int)
    mask[:16, :16] = 1

    def shown(most):
        rng = np.random.default_rng(0)
        made = view(scale=(4.0, 4.0), most=most, flip=False)
        return sum(
            bool((made(sample(mask), rng, 0.5)["fields.mask"] == 1).any()) for _ in range(60)
        )

    assert shown(0.99) > 2 * shown(1.0) > 0


def test_numbers_beyond_the_classes_are_none():
    mask = quarters(16, 16)
    found = view(classes=2, scale=(1.0, 1.0), flip=False)(
        sample(mask), np.random.default_rng(0), 0.5
    )
    assert found["fields.mask"].unique().tolist() == [0, 1, 255]


def test_a_small_image_lies_in_a_corner_of_the_mean_colour():
    found = view(scale=(0.5, 0.5), flip=False)(
        sample(quarters(16, 16)), np.random.default_rng(0), 0.5
    )
    plane = found["fields.mask"]
    assert (plane[:8, :8] != 255).all()
    assert (plane == 255).sum() == 16 * 16 - 8 * 8
    assert (found["images.main"][0][:, 8:] == 255).all()


def test_colours_vary_within_their_ranges():
    rng = np.random.default_rng(0)
    pixels = np.full((4, 4, 3), (100, 120, 140), np.uint8)
    varied = np.stack([distorted(pixels, rng)[0, 0] for _ in range(300)]).astype(int)
    assert (np.abs(varied - pixels[0, 0]).max(1) <= 1).mean() > 1 / 32
    assert varied.mean(1).min() >= (100 - 32) // 2 - 8
    assert varied.mean(1).max() <= (140 + 32) * 1.5 + 8
    assert varied.std(0).min() > 20
    order = varied[:, 1] - varied[:, 0]
    assert order.max() > 0 > order.min()  # the hue turns
    assert torch.equal(
        *(torch.from_numpy(distorted(pixels, np.random.default_rng(3))) for _ in range(2))
    )


def test_what_does_not_fit_is_a_bad_sample():
    rng = np.random.default_rng(0)
    mask = quarters(16, 16)
    with pytest.raises(BadSample, match="mask 'class' is 16 x 16, its image 32 x 20"):
        view()(sample(mask, np.zeros((20, 32, 3), np.uint8)), rng, 0.5)
    bare = Sample(key="a", source="x", images=sample(mask).images)
    with pytest.raises(BadSample, match="no mask 'class'"):
        view()(bare, rng, 0.5)
    with pytest.raises(InputError, match=r"scale \[2.0, 1.0\]"):
        configure(Crops, {"scale": [2.0, 1.0]}, "augment")
