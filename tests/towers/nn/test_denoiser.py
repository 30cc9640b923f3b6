"""The denoiser: noise by the schedule, attention to rows, guided sampling."""

import pytest
import torch
from torch.nn import functional as F

from diptych.errors import InputError
from diptych.towers.nn.denoiser import Denoiser, DenoiserConfig, kept_at, noised

SMALL = DenoiserConfig(size=8, patch=4, width=32, depth=1, heads=2, steps=20)


def denoiser(**how):
    torch.manual_seed(0)
    made = Denoiser(16, SMALL).eval()
    torch.nn.init.normal_(made.out.weight, std=0.1)
    return made


def test_images_fade_by_the_schedule():
    model, kept = denoiser(), kept_at(20)
    assert bool((kept.diff() < 0).all())
    x, noise = torch.ones(2, 3, 8, 8), torch.full((2, 3, 8, 8), 2.0)
    found = model.noised(x, noise, torch.tensor([0, 19]))
    for at, time in enumerate((0, 19)):
        wanted = kept[time].sqrt() + (1 - kept[time]).sqrt() * 2
        torch.testing.assert_close(found[at], torch.full((3, 8, 8), float(wanted)))
    assert model.pixels(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_rows_are_looked_at_and_padding_is_not():
    model = denoiser()
    x, time = torch.randn(1, 3, 8, 8), torch.tensor([3])
    rows = torch.randn(1, 4, 16)
    mask = torch.tensor([[True, True, False, False]])
    with torch.no_grad():
        first = model(x, time, rows, mask)
        padding = rows.clone()
        padding[:, 2:] = 9.0
        assert torch.equal(model(x, time, padding, mask), first)
        torch.testing.assert_close(model(x, time, rows[:, :2], mask[:, :2]), first)
        assert not torch.allclose(model(x, time, 2 * rows, mask), first)
        assert not torch.allclose(model(x, time + 5, rows, mask), first)


def test_a_fresh_denoiser_predicts_no_v():
    torch.manual_seed(0)
    model = Denoiser(16, SMALL)
    rows, mask = torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.bool)
    x, time = torch.randn(2, 3, 8, 8), torch.tensor([0, 9])
    expected = (1 - model.kept[time]).sqrt()[:, None, None, None] * x
    torch.testing.assert_close(model(x, time, rows, mask), expected)


def test_noise_follows_from_v():
    """Of v as defined, √a e - √(1 - a) x_0, it is e."""
    model = denoiser()
    torch.manual_seed(1)
    clean, noise = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    time = torch.tensor([2, 7])
    kept = model.kept.double()[time][:, None, None, None]
    v = kept.sqrt() * noise - (1 - kept).sqrt() * clean
    patches = F.pixel_unshuffle(v, SMALL.patch).flatten(2).transpose(1, 2)
    model.double().out.register_forward_hook(lambda module, given, found: patches)
    rows, mask = torch.randn(2, 4, 16).double(), torch.ones(2, 4, dtype=torch.bool)
    found = model(noised(clean, noise, model.kept.double()[time]), time, rows, mask)
    assert not torch.allclose(found, v)
    torch.testing.assert_close(found, noise)


def test_guidance_of_one_does_without_the_empty_prompt_and_more_moves_away_from_it():
    model = denoiser()
    rows, mask = torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.bool)
    empty = torch.randn(3, 16)

    def draw(guidance, empty=empty):
        generator = torch.Generator().manual_seed(0)
        return model.draw(rows, mask, empty, guidance=guidance, steps=5, generator=generator)

    assert torch.equal(draw(1.0), draw(1.0, empty + 1))
    assert not torch.allclose(draw(3.0), draw(3.0, empty + 1))
    same = model.draw(
        empty.expand(2, -1, -1),
        mask[:, :3],
        empty,
        guidance=7.0,
        steps=5,
        generator=torch.Generator().manual_seed(0),
    )
    plain = model.draw(
        empty.expand(2, -1, -1),
        mask[:, :3],
        empty,
        guidance=1.0,
        steps=5,
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-4)
    assert draw(3.0).abs().max() <= 1


def test_who_knows_the_noise_finds_the_image():
    model, clean = denoiser(), torch.rand(1, 3, 8, 8) * 2 - 1
    model.forward = lambda x, time, rows, mask: (
        (x - model.kept[time].sqrt() * clean) / (1 - model.kept[time]).sqrt()
    )
    rows, mask = torch.zeros(1, 1, 16), torch.ones(1, 1, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    found = model.draw(rows, mask, rows[0], guidance=1.0, steps=6, generator=generator)
    torch.testing.assert_close(found, clean, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 10, "patch": 4}, "cut into patches of 4"),
        ({"depth": 0}, "depth of the denoiser is 0"),
        ({"width": 33}, "must be even"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        DenoiserConfig(**options)


def test_the_schedule_of_latent_diffusion_is_the_published_one():
    kept = kept_at(1000, "scaled_linear")[[0, 100, 500, 999]]
    assert kept.tolist() == pytest.approx([0.99915, 0.894223, 0.276333, 0.004660], abs=1e-6)
    fewer = kept_at(50, "scaled_linear")
    assert bool((fewer.diff() < 0).all())
    assert float(fewer[-1]) == pytest.approx(0.0047, abs=3e-3)
