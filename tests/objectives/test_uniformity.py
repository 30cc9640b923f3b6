"""Uniformity and alignment: the published figures, loops over pairs, gradients, tiles, memory and
invariances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import det
from tests.objectives.helpers import random, saved_bytes
from torch.nn import functional as F

from diptych.errors import InputError
from diptych.objectives import (
    alignment,
    core,
    cross_uniformity,
    info_nce,
    kernel_entropy,
    uniformity,
)

SETTINGS = settings(max_examples=40, deadline=None)
SQUARE = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
TERMS = {"uniformity": lambda x, y, **how: uniformity(x, **how), "cross": cross_uniformity}


def loops(x, y, t, pairs):
    """log of the mean over pairs of exp(-t |x_i - y_j|²), one pair after the other."""
    potentials = [
        torch.exp(-t * sum((x[i, d] - y[j, d]) ** 2 for d in range(x.shape[1])))
        for i, j in pairs(range(len(x)))
    ]
    return torch.log(sum(potentials) / len(potentials))


def within(numbers):
    return [(i, j) for i in numbers for j in numbers if i < j]


def across(numbers):
    return [(i, j) for i in numbers for j in numbers if i != j]


REFERENCES = {
    "uniformity": lambda x, y, t: loops(x, x, t, within),
    "cross": lambda x, y, t: loops(x, y, t, across),
}


@SETTINGS
@given(
    n=st.integers(2, 8),
    d=st.integers(1, 4),
    t=st.sampled_from([0.5, 2.0, 3.0]),
    tile=st.integers(1, 9),
    unit=st.booleans(),
    seed=st.integers(0, 1000),
)
@pytest.mark.parametrize("name", TERMS)
def test_value_and_gradient_equal_the_loops_for_any_points_and_tile(
    name, n, d, t, tile, unit, seed
):
    x, y = (random(n, d, seed=seed + s) for s in (0, 1))
    x, y = (F.normalize(x, dim=1), F.normalize(y, dim=1)) if unit else (x, y)
    x, y = x.requires_grad_(), y.requires_grad_()
    ours, theirs = TERMS[name](x, y, t=t, tile=tile), REFERENCES[name](x, y, t)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    used = [x] if name == "uniformity" else [x, y]
    for mine, right in zip(
        torch.autograd.grad(ours, used), torch.autograd.grad(theirs, used), strict=True
    ):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-10)


def test_torchs_pdist_gives_the_same():
    x = F.normalize(random(40, 7), dim=1)
    torch.testing.assert_close(uniformity(x, 2), torch.pdist(x).square().mul(-2).exp().mean().log())


@pytest.mark.parametrize("tile", [1, 3, 9])
def test_entropy_equals_its_loops_for_any_tile(tile):
    x = (2 * random(6, 3)).requires_grad_()
    rows = [
        sum(torch.exp(-0.5 * sum((x[i, d] - x[j, d]) ** 2 for d in range(3))) for j in range(6)) / 6
        for i in range(6)
    ]
    slow = -sum(row.log() for row in rows) / 6
    ours = kernel_entropy(x, 0.5, tile=tile)
    torch.testing.assert_close(ours, slow)
    (mine,), (right,) = (torch.autograd.grad(each, x) for each in (ours, slow))
    torch.testing.assert_close(mine, right)
    assert torch.autograd.gradcheck(lambda x: kernel_entropy(x, tile=tile), (x,))
    with pytest.raises(InputError, match="at least two rows"):
        kernel_entropy(x[:1])


def test_alignment_equals_its_loop():
    x, y = random(5, 3), random(5, 3, seed=1)
    squares = [sum((x[i, d] - y[i, d]) ** 2 for d in range(3)) for i in range(5)]
    torch.testing.assert_close(alignment(x, y), sum(squares) / 5)


@pytest.mark.parametrize("tile", [1, 2, 5])
def test_gradcheck(tile):
    x, y = random(5, 3).requires_grad_(), random(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: uniformity(x, tile=tile), (x,))
    assert torch.autograd.gradcheck(lambda x, y: cross_uniformity(x, y, tile=tile), (x, y))
    assert torch.autograd.gradcheck(alignment, (x, y))


def test_sheets_anchors():
    x, y = det(4, 3, 0), det(4, 3, 1)
    values = [
        uniformity(x),
        uniformity(y),
        cross_uniformity(x, y),
        alignment(x, y),
        info_nce(x, y, 100.0),
    ]
    figures = [-2.6798140294, -2.7589403850, -1.3584978067, 1.3859525013, 50.4690065818]
    assert [value.item() for value in values] == pytest.approx(figures, abs=1e-9)


def test_anchors_of_the_square():
    assert uniformity(SQUARE).item() == pytest.approx(
        math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6), abs=1e-12
    )
    assert uniformity(SQUARE).item() == pytest.approx(-4.3963489672, abs=1e-9)
    assert cross_uniformity(SQUARE, SQUARE).item() == pytest.approx(
        uniformity(SQUARE).item(), abs=1e-12
    )
    assert alignment(SQUARE, SQUARE).item() == 0
    assert alignment(SQUARE, -SQUARE).item() == 4


def test_equal_points_have_the_maximum_and_an_antipodal_pair_the_minimum():
    x = torch.ones(6, 4, dtype=torch.float64) / 2
    assert uniformity(x).item() == pytest.approx(0, abs=1e-12)
    assert alignment(x, x).item() == 0
    assert info_nce(x, x, 100.0).item() == pytest.approx(math.log(6), abs=1e-12)
    assert uniformity(torch.stack([x[0], -x[0]])).item() == pytest.approx(-8, abs=1e-12)


@SETTINGS
@given(n=st.integers(2, 9), d=st.integers(1, 5), seed=st.integers(0, 1000))
def test_unit_vectors_stay_between_the_bounds(n, d, seed):
    x = F.normalize(random(n, d, seed=seed), dim=1)
    assert -8 - 1e-9 <= uniformity(x).item() <= 1e-9
    if n > 2:
        assert uniformity(x).item() > -8 + 1e-3  # only one antipodal pair is so far apart


def test_equal_points_draw_no_gradient():
    x = (torch.ones(4, 3) / 3**0.5).requires_grad_()
    assert torch.autograd.grad(uniformity(x), x)[0].abs().max() < 1e-6


def test_alignment_is_two_minus_twice_the_cosine_and_pulls_towards_the_partner():
    x, y = det(6, 3, 0), det(6, 3, 1)
    torch.testing.assert_close(alignment(x, y), 2 - 2 * (x * y).sum(1).mean())

    def after_normalising(loss):
        raw = x.clone().requires_grad_()
        return torch.autograd.grad(loss(F.normalize(raw, dim=1)), raw)[0]

    squares = after_normalising(lambda u: alignment(u, y))
    cosines = after_normalising(lambda u: 2 - 2 * (u * y).sum(1).mean())
    torch.testing.assert_close(squares, cosines)
    assert ((-squares * (y - x)).sum(1) > 0).all()


def test_turning_both_changes_nothing_and_turning_one_what_compares_them():
    x, y = det(6, 3, 0), det(6, 3, 1)
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    for term in (
        lambda x, y: uniformity(x),
        cross_uniformity,
        alignment,
        lambda x, y: info_nce(x, y, 10.0),
    ):
        torch.testing.assert_close(term(x @ turn, y @ turn), term(x, y))
    torch.testing.assert_close(uniformity(x @ turn), uniformity(x))
    for term in (cross_uniformity, alignment, lambda x, y: info_nce(x, y, 10.0)):
        assert abs(term(x @ turn, y) - term(x, y)) > 1e-3


def test_permuting_the_points_changes_nothing():
    x, y = det(7, 3, 0), det(7, 3, 1)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(uniformity(x[order], tile=3), uniformity(x))
    torch.testing.assert_close(cross_uniformity(x[order], y[order], tile=3), cross_uniformity(x, y))
    torch.testing.assert_close(cross_uniformity(y, x), cross_uniformity(x, y))
    assert abs(cross_uniformity(x[order], y) - cross_uniformity(x, y)) > 1e-3


def test_points_far_apart_stay_finite_in_value_and_gradient():
    x = (1000 * random(6, 4).float()).requires_grad_()
    value = uniformity(x)
    assert value.isfinite()
    assert torch.autograd.grad(value, x)[0].isfinite().all()


def test_half_precision_is_computed_in_float32_also_under_autocast():
    x, y = (F.normalize(random(32, 16, seed=s), dim=1).bfloat16() for s in (0, 1))
    exact = [
        uniformity(x.float()),
        cross_uniformity(x.float(), y.float()),
        alignment(x.float(), y.float()),
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = [uniformity(x), cross_uniformity(x, y), alignment(x, y)]
    assert [value.dtype for value in given] == [torch.float32] * 3
    assert [value.item() for value in given] == [value.item() for value in exact]


def test_float32_is_close_to_float64_on_unit_vectors():
    x = F.normalize(random(200, 64), dim=1)
    assert uniformity(x.float()).item() == pytest.approx(uniformity(x).item(), abs=1e-5)


def test_backward_keeps_no_matrix_of_pairs():
    n, d = 1024, 8
    x, y = (random(n, d, seed=s).float().requires_grad_() for s in (0, 1))
    for term in TERMS.values():
        for tile in (None, 64, n):
            kept = saved_bytes(lambda term=term, tile=tile: term(x, y, tile=tile))
            assert kept < 4 * n * n / 16


def test_no_tensor_is_larger_than_a_strip_at_4096_by_default(monkeypatch):
    seen = []
    original = core._strip
    monkeypatch.setattr(
        core, "_strip", lambda *a: seen.append(original(*a)[0].shape) or original(*a)
    )
    uniformity(torch.zeros(4096, 2, requires_grad=True)).backward()
    assert len(seen) == 16  # eight strips, made twice
    assert max(rows for rows, _ in seen) == 512


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: uniformity(x[:1]), "at least two rows"),
        (lambda x: uniformity(x[0]), "at least two rows"),
        (lambda x: cross_uniformity(x, x[:2]), "are no partners"),
        (lambda x: alignment(x, x[:, :2]), "are no partners"),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call(random(3, 3))
