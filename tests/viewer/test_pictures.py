import io

import numpy as np
import pytest
from PIL import Image
from tests.viewer.helpers import drawing

from diptych.data.clips import FrameStack
from diptych.data.held import HeldImage
from diptych.data.images import BytesImage
from diptych.data.masks import Mask
from diptych.data.sample import BadSample, Sample
from diptych.testing import Toy
from diptych.viewer.pictures import colour, pictures


def png(image: Image.Image) -> BytesImage:
    data = io.BytesIO()
    image.save(data, "PNG")
    return BytesImage(data.getvalue())


def drawn(sample: Sample, at: int, size: int) -> Image.Image:
    return Image.open(io.BytesIO(pictures(sample, {})[at].draw(size))).convert("RGB")


def test_pixel_art_is_enlarged_without_loss_and_photographs_are_made_smaller():
    small = drawing(1, 30)
    large = drawing(2, 400)
    sample = Sample(key="a", source="", images={"main": png(small), "other": png(large)})
    shown = drawn(sample, 0, 128)
    assert shown.size == (120, 120)
    assert shown.tobytes() == small.resize((120, 120), Image.Resampling.NEAREST).tobytes()
    assert drawn(sample, 1, 128).size == (128, 128)


def test_a_mask_has_a_colour_for_each_number_over_the_image_in_grey():
    numbers = np.zeros((20, 20), np.uint8)
    numbers[:10] = 1
    numbers[:, 10:] = 2
    grey = Image.new("RGB", (20, 20), (100, 100, 100))
    mask = Mask(png(Image.fromarray(numbers)))
    sample = Sample(key="a", source="", images={"main": png(grey)}, masks={"parts": mask})
    shown = drawn(sample, 1, 20)
    for place, number in (((2, 2), 1), ((15, 15), 2)):
        wanted = [int(colour(number)[at : at + 2], 16) for at in (1, 3, 5)]
        expected = [100 + (value - 100) * 0.65 for value in wanted]
        assert np.abs(np.subtract(shown.getpixel(place), expected)).max() <= 2
    assert shown.getpixel((2, 15)) == (100, 100, 100)


def test_every_kind_of_picture_is_there():
    toy = Toy(2, ["images.main", "boxes", "masks.object", "arrays.depth", "edits"],
              shapes={"depth": (16, 16)})  # fmt: skip
    shown = pictures(toy[0], toy.schema())
    names = [picture.name.partition(":")[0] for picture in shown]
    assert names == ["main", "mask", "depth, near is light", "recolour", "replace", "move"]
    assert len(shown[0].boxes) == 3


def test_damage_is_an_error_with_its_reason():
    [picture] = pictures(Sample(key="a", source="", images={"main": BytesImage(b"<html>")}), {})
    with pytest.raises(BadSample, match="html"):
        picture.draw(100)


def test_a_clip_is_shown_as_a_strip_of_its_frames():
    frames = tuple(HeldImage(drawing(number, 20)) for number in range(5))
    sample = Sample(key="a", source="", images={"frames": FrameStack(frames, 5)})
    shown = drawn(sample, 0, 60)
    assert shown.size == (60, 40)  # three beside each other, in two rows
    for at, frame in enumerate(frames):
        x, y = 20 * (at % 3), 20 * (at // 3)
        assert shown.crop((x, y, x + 20, y + 20)).tobytes() == frame.decode().tobytes()
