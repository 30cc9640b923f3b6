"""What is delivered: one change of images and one word, put on anything."""

import pytest
import torch
from PIL import Image
from tests.factories import make_method

from diptych.cli import main
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.robust.c_pgc.perturbation import resized
from diptych.methods.robust.c_pgc.words import whole_words
from diptych.methods.store import load
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
    levels = torch.full((1, 3, 4, 4), 4, dtype=torch.int16)
    levels[:, :, ::2] = -4
    found = resized(levels, (9, 2), 4)
    assert found.shape == (1, 3, 9, 2)
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


def searched_slowly(encoder, image, eps, steps, step):
    """δ of one image (3, S, S), uint8, as whole numbers."""
    tower = encoder.image

    def feature(x):
        return encoder.embed_images((x[None] - tower.mean) / tower.std)[0]

    x = image.double() / 255
    start = torch.rand(tuple(image.shape), generator=torch.Generator().manual_seed(0))
    delta = (eps / 255 * (2 * start.double() - 1)).requires_grad_()
    target = feature(x).detach()
    for _ in range(steps):
        (feature((x + delta).clamp(0, 1)) @ target).backward()
        with torch.no_grad():
            moved = delta - step * eps / 255 * delta.grad.sign()
            delta = moved.clamp(-eps / 255, eps / 255)
        delta.requires_grad_()
    return (255 * delta.detach()).round()


@pytest.fixture(scope="module")
def instance():
    """A model whose change is searched for each image, in float64."""
    method = make_method("c_pgc", by="instance", eps=6, steps=3, step=0.4, layers=2, channels=16)
    change = method.model.double()
    return change.to_model(None, change.image.preprocess, "change")


def test_a_change_of_each_image_equals_the_loop_and_depends_on_no_other(instance):
    pixels = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(3))
    pixels = pixels.to(torch.uint8)
    change = instance.perturbation
    with torch.inference_mode():
        found = change.searched(pixels)
        alone = change.searched(pixels[1:2])
    for image, levels in zip(pixels, found, strict=True):
        assert torch.equal(levels.double(), searched_slowly(change.encoder, image, 6, 3, 0.4))
    assert torch.equal(found[1:2], alone)
    assert not torch.equal(found[0], found[1])
    assert int(found.abs().max()) <= 6


def test_it_moves_features_further_than_noise_and_leaves_texts(instance):
    pixels = torch.randint(0, 256, (8, 3, 40, 40), generator=torch.Generator().manual_seed(3))
    pixels = pixels.to(torch.uint8)
    changed, texts = instance.apply(pixels, ["a cat"], batch_size=3)
    assert texts == ["a cat"]
    assert 0 < int((changed.int() - pixels.int()).abs().max()) <= 6
    signs = torch.randint(0, 2, pixels.shape, generator=torch.Generator().manual_seed(4)) * 12 - 6
    noisy = (pixels + signs).clamp(0, 255).to(torch.uint8)
    plain, moved, other = (
        torch.as_tensor(instance.embed_images(each)) for each in (pixels, changed, noisy)
    )
    assert float((plain * moved).sum(1).mean()) < float((plain * other).sum(1).mean())
    assert instance.apply(pixels[:0])[0].shape == (0, 3, 40, 40)


def test_a_run_of_it_needs_no_targets_and_is_loaded(tmp_path):
    given = ["--init", "tiny", "--data", "scenes:number=1:texts=caption:count=8", "--quiet"]
    out = tmp_path / "run"
    assert main(["train", "c_pgc", *given, "--method.by", "instance", "--out", str(out)]) == 0
    model = load(out)
    assert (model.perturbation.steps, model.word) == (20, "")
    found = evaluate(model, Toy(12), ["attack"])["attack"]
    assert found["largest_change"] <= 8
    assert found["changed_texts"] == 0
