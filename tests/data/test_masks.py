"""Masks that are stored as images keep their numbers, whatever size is asked for."""

import io

import numpy as np
from PIL import Image

from diptych.data.decode import decode_mask
from diptych.data.images import BytesImage
from diptych.data.masks import VOID, ClassMask, Mask


def stored(plane: np.ndarray) -> BytesImage:
    buffer = io.BytesIO()
    Image.fromarray(plane).save(buffer, "PNG")
    return BytesImage(buffer.getvalue())


def test_a_mask_is_decoded_at_full_size():
    plane = np.random.default_rng(0).integers(0, 9, (40, 30), np.uint8)
    mask = Mask(stored(plane))
    assert np.array_equal(np.asarray(mask.decode(at_least=8)), plane)
    assert mask.read() == stored(plane).data


def test_segments_become_classes_and_other_pixels_void():
    plane = np.array([[0, 3, 3], [7, 7, 250]], np.uint8)
    classes = ClassMask(Mask(stored(plane)), {3: 0, 7: 12})
    expected = np.array([[VOID, 0, 0], [12, 12, VOID]])
    assert np.array_equal(np.asarray(classes.decode()), expected)
    assert np.array_equal(np.asarray(decode_mask(classes.read())), expected)
