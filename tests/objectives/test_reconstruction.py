"""Patches of pixels and the errors of drawn ones, against loops."""

import math

import pytest
import torch

from diptych.objectives.reconstruction import patchify, reconstruction_errors


@pytest.mark.parametrize("target", ["standardised", "raw"])
def test_errors_are_means_over_the_pixels_of_a_patch(target):
    torch.manual_seed(0)
    drawn, pixels = torch.randn(2, 3, 12, dtype=torch.float64), torch.rand(2, 3, 12).double()
    counted = torch.tensor([[True, False, True], [False, False, False]])
    total, number = reconstruction_errors(drawn, pixels, counted, target)
    expected = 0.0
    for p in (0, 2):
        x = pixels[0, p].tolist()
        m = sum(x) / 12
        s = math.sqrt(sum((each - m) ** 2 for each in x) / 11 + 1e-6)
        for i in range(12):
            d = float(drawn[0, p, i])
            expected += (abs(d - x[i]) if target == "raw" else (d - (x[i] - m) / s) ** 2) / 12
    assert float(total[0]) == pytest.approx(expected)
    assert (number.tolist(), float(total[1])) == ([2.0, 0.0], 0.0)


def test_nothing_drawn_costs_the_variance_of_standardised_pixels():
    pixels = torch.rand(1, 5, 48, generator=torch.Generator().manual_seed(0)).double()
    total, count = reconstruction_errors(torch.zeros_like(pixels), pixels, torch.ones(1, 5))
    assert float(total / count) == pytest.approx(
        0.979167, abs=3e-5
    )  # 47 / 48, less about eps / var
    assert float(total / count) < 47 / 48


def test_patches_hold_their_pixels():
    image = torch.arange(3 * 4 * 6).reshape(1, 3, 4, 6)
    found = patchify(image, 2)
    assert found.shape == (1, 6, 12)
    for p in range(6):
        top, left = 2 * (p // 3), 2 * (p % 3)
        slow = [
            int(image[0, c, top + y, left + x])
            for y in range(2)
            for x in range(2)
            for c in range(3)
        ]
        assert found[0, p].tolist() == slow
