"""Predictors of noise that take images and strings: times and noises that are shared, and what is
refused."""

import pytest
import torch
from tests.factories import random_images, tokenizer

from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models.diffusion import check_drawing, mean_errors, shared_noise
from diptych.testing.subject import toy_denoiser
from diptych.towers.nn.denoiser import kept_at


@pytest.fixture(scope="module")
def model():
    found = load(toy_denoiser().name)
    found.draws = 4
    return found


class Oracle:
    """Knows the latent of each caption, which is what its rows are."""

    kept = kept_at(40)
    shape = (3, 2, 2)

    def noised(self, x, noise, time):
        kept = self.kept[time].view(-1, 1, 1, 1)
        return kept.sqrt() * x + (1 - kept).sqrt() * noise

    def __call__(self, x, time, rows, mask):
        kept = self.kept[time].view(-1, 1, 1, 1)
        return (x - kept.sqrt() * rows) / (1 - kept).sqrt()


def test_of_who_knows_the_captions_latent_the_error_is_a_distance_whatever_the_noise():
    z, of_caption = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64)
    oracle = Oracle()
    found = mean_errors(oracle, z, of_caption, torch.ones(5, 1), 10)
    times = [int(time[0]) for _, time in shared_noise(oracle, z, 10)]
    ratio = torch.stack([kept / (1 - kept) for kept in oracle.kept[times].double()]).mean()
    torch.testing.assert_close(found, ratio * (z - of_caption).square().mean((1, 2, 3)))
    assert [time // 4 for time in times] == list(range(10))


def test_the_same_times_and_noises_are_compared_for_all(model):
    images = random_images(4)
    texts = ["a red circle", "a blue bar", "a red circle", "a blue bar"]
    together = model.match(images, texts)
    apart = model.match(images.flip(0), texts[::-1], batch_size=1).flip(0)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    twice = model.match(images[[0, 0]], ["a red circle"] * 2)
    assert twice[0] == twice[1]
    torch.testing.assert_close(-together, model.noise_error(images, texts))


def test_images_are_drawn_by_text_and_seed(model):
    first, other = ([*model.draw("a red circle", 2, steps=3, seed=seed)] for seed in (0, 1))
    assert first[0].size == (16, 16)
    assert first[0].tobytes() != first[1].tobytes() != other[1].tobytes()
    again = model.draw("a red", 2, words="circle", steps=3)
    assert [each.tobytes() for each in again] == [each.tobytes() for each in first]


def test_identity_is_that_of_the_weights(model):
    assert len(model.identity) == 64
    assert model.identity == load(toy_denoiser().name).identity


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(InputError, match="2 images have 1 texts; give one for each image"):
        model.match(random_images(2), ["a red circle"])
    with pytest.raises(InputError, match="takes pixels as uint8, got torch.float32"):
        model.match(random_images(1).float(), ["a red circle"])
    for numbers in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, -1.0)):
        with pytest.raises(InputError, match="are none; give 1 or more"):
            check_drawing(*numbers)


def test_its_tokenizer_is_its_own(model):
    assert model.tokenizer.fingerprint == tokenizer().fingerprint
