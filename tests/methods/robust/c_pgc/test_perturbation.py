"""What is delivered: one change of images and one word, put on anything."""

import pytest
import torch
from PIL import Image
from tests.factories import make_method

from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.robust.c_pgc.perturbation import resized
from diptych.methods.robust.c_pgc.words import whole_words
from diptych.testing import Toy


@pytest.fixture(scope="module")
def model():
    method = make_method("c_pgc", eps=6, layers=2, channels=16, text_channels=16, rows=2)
    change = method.model
    torch.manual_seed(0)
    number = next(iter(whole_words(method.make.tokenizer)))
    change.set(torch.randint(-6, 7, (3, 32, 32)), change.table[number].detach() + 1e-4)
    return change.to_model(None, change.image.preprocess, "change")


def test_apply_changes_pixels_at_their_own_size_and_other_images_at_the_models(model):
    pixels = torch.full((2, 3, 48, 40), 128, dtype=torch.uint8)
    changed, texts = model.apply(pixels)
    assert changed.shape == pixels.shape
    assert texts == []
    assert 0 < int((changed.int() - 128).abs().max()) <= 6
    changed, _ = model.apply([Image.new("RGB", (50, 50), (128, 128, 128))])
    assert changed.shape == (1, 3, 32, 32)
    torch.testing.assert_close(changed[0].int() - 128, model.perturbation.levels.int())


def test_apply_clips_to_what_a_pixel_can_be(model):
    for value in (0, 255):
        pixels = torch.full((1, 3, 32, 32), value, dtype=torch.uint8)
        difference = model.apply(pixels)[0].int() - value
        levels = model.perturbation.levels.int()
        expected = levels.clamp(min=0) if value == 0 else levels.clamp(max=0)
        assert torch.equal(difference[0], expected)


def test_a_resized_change_keeps_its_bound():
    levels = torch.full((3, 4, 4), 4, dtype=torch.int16)
    levels[:, ::2] = -4
    found = resized(levels, (9, 2), 4)
    assert found.shape == (3, 9, 2)
    assert found.dtype == torch.int16
    assert int(found.abs().max()) <= 4
    assert resized(levels, (4, 4), 4) is levels


def test_apply_puts_the_word_into_texts(model):
    _, [text] = model.apply((), ["a red circle on the left"])
    assert model.word in text.split()
    assert len(text.split()) == 6


def test_before_it_is_made_it_changes_nothing():
    method = make_method("c_pgc", eps=6, layers=2, channels=16, text_channels=16, rows=2)
    model = method.model.to_model(None, method.model.image.preprocess, "change")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    changed, texts = model.apply(pixels, ["a red circle"])
    assert torch.equal(changed, pixels)
    assert texts == ["a red circle"]
    assert model.word == ""
    found = evaluate(model, Toy(24), ["attack"])["attack"]
    assert found["i2t_asr1"] == found["t2i_asr1"] == found["largest_change"] == 0


def test_pixels_that_are_no_bytes_are_refused(model):
    with pytest.raises(InputError, match="δ is added to images of 8 bits, got torch.float32"):
        model.apply(torch.zeros(1, 3, 32, 32))
