"""Losses without negatives: the published figures, loops, the published iteration by hand,
gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from diptych.errors import InputError
from diptych.objectives.noncontrastive import assignment_loss, negative_cosine, redundancy, sinkhorn


def raw(k):
    m = np.arange(12).reshape(4, 3)
    return torch.from_numpy(np.sin(1.7 * m + k) + 0.3 * np.cos(0.9 * m * (k + 1)))


def test_the_sheets_figure_of_predictions():
    p, v = {k: raw(k) for k in (6, 7, 8, 9, 10, 11)}, {k: raw(k) for k in range(6)}
    terms = [negative_cosine(p[6], v[1]), negative_cosine(p[7], v[0])]
    terms += [negative_cosine(p[a], v[b]) for a in (8, 9) for b in (4, 5)]
    terms += [negative_cosine(p[a], v[b]) for a in (10, 11) for b in (2, 3)]
    assert (sum(terms) / 10).item() == pytest.approx(2.1908393541, abs=1e-9)


def test_targets_get_no_gradient():
    p, v = raw(0).requires_grad_(), raw(1).requires_grad_()
    negative_cosine(p, v).backward()
    assert p.grad.abs().max() > 0
    assert v.grad is None


def test_the_sheets_figures_of_redundancy():
    z = torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]], dtype=torch.float64)
    for x, y, expected in ((z, z, 0), (z, -z, 0.2), (torch.zeros_like(z), z, 0.05)):
        assert 0.025 * redundancy(x, y).item() == pytest.approx(expected, abs=1e-12)
    alike = torch.tensor([[1.0, 1], [-1, -1]] * 2, dtype=torch.float64)
    assert 0.025 * redundancy(alike, alike).item() == pytest.approx(0.00025, abs=1e-12)
    views = [(0, 1), (2, 4), (2, 5), (3, 4), (3, 5)]
    mean = sum(0.025 * redundancy(raw(a), raw(b)).item() for a, b in views) / 5
    assert mean == pytest.approx(0.0937831071, abs=1e-9)


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.005, 0.5, 1.0]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_redundancy_equals_loops(count, width, off, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(count, width, generator=generator, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for d in range(width):
        for e in range(width):
            c = sum(float(x[i, d] * y[i, e]) for i in range(count)) / count
            total += (c - 1) ** 2 if d == e else off * c**2
    assert redundancy(x, y, off_diagonal=off).item() == pytest.approx(total)


# ---- assignments


def published(scores, eps, iterations):
    """The iteration as it is published: exponentials, rows and columns in turn."""
    q = torch.exp(scores / eps).T
    prototypes, count = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / prototypes
        q = q / q.sum(0, keepdim=True) / count
    return (q * count).T


@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.sampled_from([0.05, 0.5]),
    st.integers(1, 4),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_sinkhorn_equals_the_published_iteration_and_rows_sum_to_one(
    count, prototypes, eps, iterations, seed
):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, prototypes, generator=generator, dtype=torch.float64) * 2 - 1
    found = sinkhorn(scores, eps=eps, iterations=iterations)
    torch.testing.assert_close(found, published(scores, eps, iterations))
    torch.testing.assert_close(found.sum(1), torch.ones(count, dtype=torch.float64))


def test_a_constant_is_assigned_evenly_and_large_scores_stay_finite():
    torch.testing.assert_close(sinkhorn(torch.full((3, 3), 0.7)), torch.full((3, 3), 1 / 3))
    assert sinkhorn(100 * torch.eye(4), eps=0.01).isfinite().all()


def test_the_sheets_figure_of_swapped_assignments():
    """Assignments of the other image and the other text: both indices are swapped."""
    h = {k: F.normalize(raw(k), dim=1) for k in (2, 3, 4, 5)}
    scores = {(a, b): h[2 + a] @ h[4 + b].T for a in range(2) for b in range(2)}
    total = 0.0
    for (a, b), mine in scores.items():
        other = scores[1 - a, 1 - b]
        by_image = assignment_loss(mine, sinkhorn(other), 10.0)
        by_text = assignment_loss(mine.T, sinkhorn(other.T), 10.0)
        total += 0.5 * (by_image + by_text).item() / 4
    assert total == pytest.approx(7.2423279509, abs=1e-9)


def test_gradients():
    x, y = raw(0).requires_grad_(), raw(1).requires_grad_()
    assert torch.autograd.gradcheck(redundancy, (x, y))
    q = sinkhorn(raw(2).detach())
    assert torch.autograd.gradcheck(lambda s: assignment_loss(s, q, 2.0), (x,))


def test_what_does_not_fit_is_refused():
    for loss in (negative_cosine, redundancy):
        with pytest.raises(InputError, match="no partners"):
            loss(raw(0), raw(1)[:2])
    with pytest.raises(InputError, match="give \\(B, K\\)"):
        sinkhorn(torch.ones(3))
