"""Gap layers: numeric anchors, what each does to a vector, what is fitted to pairs."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from diptych.errors import InputError
from diptych.methods.adapt.close.gap import KINDS, gap, usual_noise


def unit(count, width, seed=0):
    return normalize(
        torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def draws(count, width, n=1, seed=1):
    return torch.randn(count, n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("width", "noise", "cosine"),
    [(512, 0.08, 0.4835), (768, 0.04, 0.6698), (768, 0.08, 0.4112), (768, 0.12, 0.2880)],
)
def test_noise_turns_vectors_as_far_as_published(width, noise, cosine):
    z = unit(2000, width)
    noisy = gap("none", width, noise)(z, draws(2000, width))
    assert float((noisy * z).sum(1).mean()) == pytest.approx(cosine, abs=0.004)
    assert (1 + noise**2 * width) ** -0.5 == pytest.approx(cosine, abs=2e-4)
    torch.testing.assert_close(noisy.norm(dim=1), torch.ones(2000))


def test_noise_is_larger_than_the_signal_at_every_width():
    assert usual_noise(768) == pytest.approx(0.08)
    for width in (32, 192, 768):
        assert usual_noise(width) * width**0.5 == pytest.approx(2.217, abs=1e-3)
        assert gap("none", width).noise == usual_noise(width)
    spread = gap("none", 192).spread(draws(2000, 192))
    assert float(spread.std()) == pytest.approx(usual_noise(192), rel=0.01)  # of each coordinate


def test_without_noise_and_after_training_unit_vectors_come_through():
    z = unit(20, 16)
    torch.testing.assert_close(gap("none", 16, 0.0)(z, draws(20, 16)), z)
    torch.testing.assert_close(gap("none", 16, 0.5).eval()(z, draws(20, 16)), z)
    torch.testing.assert_close(gap("none", 16, 0.5).eval()(3 * z), z)


def fitted(spec, seed=0, count=200, width=16, noise=0.1):
    texts = unit(count, width, seed)
    images = normalize(texts @ unit(width, width, 5) + 0.5, dim=1)
    layer = gap(spec, width, noise)
    layer.fit(images.numpy(), texts.numpy())
    return layer, images, texts


def test_a_mean_shift_is_added_before_the_noise_and_kept_after_training():
    layer, images, texts = fitted("mean:scale=0.5")
    mu = (images - texts).mean(0)
    torch.testing.assert_close(layer.shift, mu, atol=1e-6, rtol=0)
    normal = draws(200, 16)
    expected = [row + 0.5 * mu + 0.1 * e[0] for row, e in zip(texts, normal, strict=True)]
    torch.testing.assert_close(layer(texts, normal), normalize(torch.stack(expected), dim=1))
    torch.testing.assert_close(layer.eval()(texts), normalize(texts + 0.5 * mu, dim=1))


def test_a_random_shift_is_one_direction_of_its_length():
    layer = gap("random:scale=2.0", 16, 0.0)
    assert float(layer.shift.norm()) == pytest.approx(2.0)
    z = unit(5, 16)
    torch.testing.assert_close(layer(z, draws(5, 16)), normalize(z + layer.shift, dim=1))
    assert "shift" in layer.state_dict()


def test_a_linear_map_is_the_least_squares_made_unit_before_the_noise():
    layer, images, texts = fitted("linear")
    ones = np.ones((200, 1))
    solution, *_ = np.linalg.lstsq(
        np.hstack([texts.double().numpy(), ones]), images.double().numpy(), rcond=None
    )
    found = np.vstack([layer.weight.T.numpy(), layer.bias.numpy()[None]])
    np.testing.assert_allclose(found, solution, atol=1e-4)
    moved = normalize(texts @ layer.weight.T + layer.bias, dim=1)
    normal = draws(200, 16)
    torch.testing.assert_close(layer(texts, normal), normalize(moved + 0.1 * normal[:, 0], dim=1))
    torch.testing.assert_close(layer.eval()(texts), moved)


def test_a_linear_map_takes_the_smallest_where_texts_do_not_fill_the_space():
    texts = torch.zeros(30, 8)
    texts[:, :3] = unit(30, 3)
    layer = gap("linear", 8)
    layer.fit(unit(30, 8, 1).numpy(), texts.numpy())
    assert float(layer.weight[:, 3:].abs().max()) < 1e-6
    assert bool(torch.isfinite(layer.weight).all())


def test_noise_has_the_covariance_of_the_differences():
    layer, images, texts = fitted("covariance:factor=3")
    cov = torch.cov((images - texts).double().T)
    torch.testing.assert_close((layer.root @ layer.root.T).double(), cov, atol=1e-6, rtol=0)
    found = layer.spread(draws(20000, 16, 2))
    torch.testing.assert_close(found.mean(0), layer.shift, atol=0.05, rtol=0)
    expected = 9 * cov.float() + 0.1**2 * torch.eye(16)
    torch.testing.assert_close(torch.cov(found.T), expected, atol=0.05, rtol=0.05)
    torch.testing.assert_close(layer.eval()(texts), texts)  # it acts in training alone


def test_covariance_noise_of_nothing_is_plain_noise():
    z, normal = unit(10, 16), draws(10, 16, 2)
    layer = gap("covariance", 16, 0.3)
    layer.fit(z.numpy(), z.numpy())
    torch.testing.assert_close(layer(z, normal), gap("none", 16, 0.3)(z, normal))


def test_what_is_wrong_is_told():
    with pytest.raises(InputError, match="did you mean 'linear'"):
        gap("liner", 8)
    with pytest.raises(InputError, match="mean and random take scale"):
        gap("linear:scale=2", 8)
    with pytest.raises(InputError, match="noise is -1"):
        gap("none", 8, -1)
    for spec, kind in KINDS.items():
        if kind.paired:
            with pytest.raises(InputError, match="give more pairs"):
                gap(spec, 8).fit(np.ones((1, 8)), np.ones((1, 8)))
