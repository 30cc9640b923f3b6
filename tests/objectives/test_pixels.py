"""Losses of positions: the published figures, loops, gradients, invariances, crops apart."""

import math

import pytest
import torch
from tests.factories import raw
from torch.nn.functional import normalize

from diptych.objectives.pixels import pixel_consistency, pixel_contrast, positives

WHOLE = (0.0, 0.0, 1.0, 1.0)
MIRRORED = (1.0, 0.0, 0.0, 1.0)


def position_map(k):
    """The map of the figures, 3 x 2 x 2 with channels first, as unit vectors of positions (1, 4, 3)."""
    return normalize(raw(3, 4, k), dim=0).T[None]


def near(one, other, grid=(2, 2), ratio=0.7):
    crops = [torch.tensor([crop], dtype=torch.float64) for crop in (one, other)]
    return positives(*crops, grid, ratio)


def slow_positives(one, other, grid, ratio):
    """By loops over cells."""
    height, width = grid
    cells = []
    for x0, y0, x1, y1 in (one, other):
        w, h = (x1 - x0) / width, (y1 - y0) / height
        centres = [
            (x0 + (column + 0.5) * w, y0 + (row + 0.5) * h)
            for row in range(height)
            for column in range(width)
        ]
        cells.append((centres, math.sqrt(w * w + h * h)))
    (mine, d), (theirs, other_d) = cells
    return [[math.dist(p, q) / max(d, other_d) < ratio for q in theirs] for p in mine]


def unit(row):
    length = math.sqrt(sum(value * value for value in row))
    return [value / length for value in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def slow_consistency(x, z, positive):
    total = 0.0
    count = 0
    for p, row in enumerate(positive):
        for q, is_near in enumerate(row):
            if is_near:
                total += dot(unit(x[p]), unit(z[q]))
                count += 1
    return -2 * total / (count + 1e-6)


def slow_contrast(x, z, positive, tau):
    losses = []
    for p, row in enumerate(positive):
        weights = [math.exp(dot(unit(x[p]), unit(other)) / tau) for other in z]
        if any(row):
            own = sum(weight for weight, is_near in zip(weights, row, strict=True) if is_near)
            losses.append(-math.log(own / sum(weights)))
    return sum(losses) / len(losses) if losses else 0.0


def drawn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def crops_of(seed, count=5):
    """Random crops (count, 4), half of them mirrored; the last is in a corner."""
    generator = torch.Generator().manual_seed(seed)
    sides = 0.2 + 0.5 * torch.rand(count, 2, dtype=torch.float64, generator=generator)
    start = (1 - sides) * torch.rand(count, 2, dtype=torch.float64, generator=generator)
    crops = torch.cat([start, start + sides], 1)
    crops[-1] = torch.tensor([0.0, 0.0, 0.1, 0.1]) + (seed % 2) * 0.9
    crops[::2] = crops[::2, [2, 1, 0, 3]]
    return crops


@pytest.mark.parametrize(
    ("one", "other", "pairs", "loss"),
    [
        (WHOLE, WHOLE, [[0], [1], [2], [3]], -0.4645406216),
        (WHOLE, MIRRORED, [[1], [0], [3], [2]], -0.0651609909),
        ((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), [[], [], [], []], 0.0),
        (
            WHOLE,
            (0.25, 0.25, 0.75, 0.75),
            [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]],
            -0.0248146382,
        ),
    ],
)
def test_figures_of_the_pairs_and_of_the_loss(one, other, pairs, loss):
    found = near(one, other)
    assert [row.nonzero().flatten().tolist() for row in found[0]] == pairs
    value = pixel_consistency(position_map(0), position_map(1), found).item()
    assert value == pytest.approx(loss, abs=1e-10)


def test_figure_of_equal_maps():
    q = position_map(0)
    found = pixel_consistency(q, q, near(WHOLE, WHOLE))
    assert found.item() == pytest.approx(-1.9999995, abs=1e-10)


@pytest.mark.parametrize("grid", [(3, 4), (5, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_losses_are_those_of_loops(grid, seed):
    one, other = crops_of(seed), crops_of(seed + 1)
    found = positives(one, other, grid, 0.7)
    slow = [
        slow_positives(*crops, grid, 0.7)
        for crops in zip(one.tolist(), other.tolist(), strict=True)
    ]
    assert found.tolist() == slow
    assert torch.equal(found.mT, positives(other, one, grid, 0.7))
    x, z = drawn(5, grid[0] * grid[1], 3, seed=seed), drawn(5, grid[0] * grid[1], 3, seed=seed + 9)
    rows = list(zip(x.tolist(), z.tolist(), slow, strict=True))
    assert pixel_consistency(x, z, found).tolist() == pytest.approx(
        [slow_consistency(*row) for row in rows], abs=1e-12
    )
    assert pixel_contrast(x, z, found, 0.3).tolist() == pytest.approx(
        [slow_contrast(*row, 0.3) for row in rows], abs=1e-12
    )


def test_the_larger_diagonal_and_the_shape_of_the_cells_set_the_distance():
    """A wide crop beside a small one: with the smaller, or the mean, diagonal nothing is near."""
    assert near((0, 0, 1, 0.5), (0.4, 0, 0.5, 0.05), grid=(1, 2)).all()
    assert not near((0.4, 0, 0.5, 0.05), (0.6, 0, 0.7, 0.05), grid=(1, 2)).any()


def test_gradients_reach_the_online_side_and_no_crop_that_is_apart():
    found = torch.stack([near(WHOLE, (0.25, 0.25, 0.75, 0.75))[0], torch.zeros(4, 4).bool()])
    x = drawn(2, 4, 3, seed=0).requires_grad_()
    z = drawn(2, 4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, z: pixel_consistency(x, z, found), (x, z))
    assert torch.autograd.gradcheck(lambda x, z: pixel_contrast(x, z, found, 0.3), (x, z))
    for loss in (pixel_consistency(x, z, found), pixel_contrast(x, z, found, 0.3)):
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert loss[1].item() == 0
        assert gradient[0].abs().min() > 0
        assert torch.equal(gradient[1], torch.zeros(4, 3, dtype=torch.float64))  # and no nan


def test_lengths_do_not_count_nor_does_a_rotation_of_both():
    found = near(WHOLE, (0.25, 0.25, 0.75, 0.75))
    x, z = position_map(0), position_map(1)
    turn = torch.linalg.qr(drawn(3, 3, seed=3))[0]
    longer = torch.tensor([0.1, 3.0, 1.0, 20.0], dtype=torch.float64)[None, :, None]
    for loss in (pixel_consistency, lambda *maps: pixel_contrast(*maps, 0.3)):
        assert loss(longer * x @ turn, z @ turn * longer, found).item() == pytest.approx(
            loss(x, z, found).item(), abs=1e-12
        )


def test_half_precision_is_computed_in_single():
    x, z = (position_map(k).bfloat16() for k in (0, 1))
    found = near(WHOLE, WHOLE)
    for loss in (pixel_consistency, lambda *maps: pixel_contrast(*maps, 0.3)):
        assert loss(x, z, found).dtype == torch.float32
        torch.testing.assert_close(loss(x, z, found), loss(x.float(), z.float(), found))
