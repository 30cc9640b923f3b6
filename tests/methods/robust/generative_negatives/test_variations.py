"""Variations: their area, and their captions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.methods.robust.generative_negatives.variations import (
    cleaned,
    image_variation_area,
    varied_captions,
)


def by_loops(images, threshold):
    n, height, width, channels = images.shape
    changed = 0
    for y in range(height):
        for x in range(width):
            total = 0.0
            for channel in range(channels):
                values = [float(images[k, y, x, channel]) for k in range(n)]
                mean = sum(values) / n
                total += (sum((value - mean) ** 2 for value in values) / n) ** 0.5
            changed += total / channels > threshold
    return 100 * changed / (height * width)


@pytest.mark.parametrize("seed", range(3))
def test_area_equals_the_sum_over_pixels(seed):
    images = np.random.default_rng(seed).integers(0, 40, (3, 5, 4, 3))
    assert image_variation_area(images) == pytest.approx(by_loops(images, 10))


def test_equal_images_have_no_area_and_other_colours_all_of_it():
    grey = np.full((4, 6, 6, 3), 90)
    assert image_variation_area(grey) == 0
    assert image_variation_area(np.stack([grey[0], grey[0] + 30])) == 100


def test_bytes_do_not_overflow():
    images = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
    assert image_variation_area(images) == 100


def test_captions_say_what_took_the_items_place():
    captions = ["A cat sleeps.", "Some animal", "Two cats on a mat"]
    found = varied_captions(captions, "cat", "a red fox", "a cat on a mat")
    assert found == ["a red fox sleeps", "a red fox on a mat"]
    assert varied_captions(["an animal"], "cat", "a red fox", "a mat") == ["a mat and a red fox"]
    assert varied_captions([], "cat", "a red fox", "a cat on a mat") == ["a red fox on a mat"]


@given(st.text(max_size=80))
def test_cleaning_is_idempotent_and_bounded(text):
    once = cleaned(text)
    assert cleaned(once) == once
    assert len(once.split()) <= 50
    assert not set(once) & set('.!"()*#:;~')
