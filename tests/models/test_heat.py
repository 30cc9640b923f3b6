"""Heat as a map of the image: the filter on the grid, the enlargement, and what is not seen."""

import math

import numpy as np
import pytest
import torch

from diptych.data.images import Preprocess
from diptych.errors import InputError
from diptych.models.heat import heat_map, smoothed

PUBLISHED = Preprocess(size=480, margin=512 / 480)


def test_an_impulse_has_the_published_values():
    impulse = torch.zeros(15, 15, dtype=torch.float64)
    impulse[7, 7] = 1
    found = smoothed(impulse, 1.5)
    assert float(found[7, 7]) == pytest.approx(0.070737, abs=1e-6)
    assert float(found[7, 8]) == pytest.approx(0.056642, abs=1e-6)
    assert float(found.sum()) == pytest.approx(1)


@pytest.mark.parametrize(("shape", "sigma"), [((15, 15), 1.5), ((3, 7), 1.5), ((2, 2), 3.0)])
def test_the_filter_is_that_of_scipy(shape, sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    maps = np.random.default_rng(0).normal(size=(2, *shape))
    expected = np.stack([ndimage.gaussian_filter(each, sigma) for each in maps])
    np.testing.assert_allclose(smoothed(torch.from_numpy(maps), sigma).numpy(), expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(1021, 777), (300, 401)])
def test_the_crop_is_undone(size, interpolation):
    """The map fills a square of int(480 · short / 512), the smaller margin first; elsewhere it is NaN."""
    width, height = size
    heat = torch.rand(15, 15)
    found = heat_map(heat, PUBLISHED, size, sigma=0, interpolation=interpolation)
    assert found.shape == (height, width)
    side = int(480 * min(size) / 512)
    left = math.floor((width - side) / 2)
    top = math.floor((height - side) / 2)
    seen = ~found.isnan()
    assert int(seen.sum()) == side * side
    inner = found[top : top + side, left : left + side]
    assert not inner.isnan().any()
    assert bool((inner >= heat.min()).all() and (inner <= heat.max()).all())
    if interpolation == "nearest":
        rows = np.arange(side) * 15 // side
        assert torch.equal(inner, heat[rows][:, rows])


def test_all_that_is_read_is_mapped():
    heat = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    squashed = heat_map(heat, Preprocess(size=8, resize="squash"), (4, 2), sigma=0)
    assert squashed.tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    # bars above and below are cut off
    padded = heat_map(heat, Preprocess(size=8, resize="longest"), (4, 2), sigma=0)
    assert padded.tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    several = heat_map(heat.expand(3, 2, 2), Preprocess(size=8), (2, 2), sigma=0)
    assert several.shape == (3, 2, 2)


def test_bad_values_are_refused():
    with pytest.raises(InputError, match="0 or more"):
        smoothed(torch.zeros(2, 2), -1)
    with pytest.raises(InputError, match="without ratio"):
        heat_map(torch.zeros(2, 2), Preprocess(size=8, ratio=1.25), (4, 2))


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(40, 20), (24, 40), (30, 30)])
def test_the_map_of_images_of_two_sides_lies_where_they_are_seen(resize, size):
    """Constant columns: each pixel of the image has the column of the box in which it lies."""
    preprocess = Preprocess(size=(8, 16), resize=resize)
    heat = torch.arange(4.0).expand(2, 4)
    found = heat_map(heat, preprocess, size, sigma=0)
    x0, y0, x1, y1 = preprocess.seen(*size)
    for x in range(size[0]):
        for y in range(size[1]):
            across = (x + 0.5 - x0) / (x1 - x0) * 4
            inside = x0 <= x + 0.5 <= x1 and y0 <= y + 0.5 <= y1
            near = min(abs(x + 0.5 - edge) for edge in (x0, x1)) <= 1
            near |= min(abs(y + 0.5 - edge) for edge in (y0, y1)) <= 1
            near |= abs(across - round(across)) < 0.15
            if not near:
                value = found[y, x].item()
                assert (value == int(across)) if inside else math.isnan(value), (x, y)
