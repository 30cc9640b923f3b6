"""Whitening of groups of channels against loops and published values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.methods.text.whitened_cse.whitening import group_whitening

X = torch.tensor(
    [[1, 2, 0, 1], [3, 0, 1, -1], [-1, 1, 2, 0], [1, -3, 1, 4], [0, 1, -2, 2], [2, -1, 4, 0]],
    dtype=torch.float64,
)
ORDER = torch.tensor([0, 2, 1, 3])
ENGINES = ("zca", "cholesky", "newton")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_published_values():
    plain = group_whitening(X, 2, eps=0.0)
    first = torch.tensor([0.230940, 1.270171, -0.581811, -0.125459], dtype=torch.float64)
    fourth = torch.tensor([-0.346410, -1.905256, 0.376378, 1.960505], dtype=torch.float64)
    assert torch.allclose(plain[0], first, atol=1e-6)
    assert torch.allclose(plain[3], fourth, atol=1e-6)
    other = group_whitening(X, 2, ORDER, eps=0.0)
    first = torch.tensor([0.095565, 1.366025, -0.562987, 0.366025], dtype=torch.float64)
    assert torch.allclose(other[0], first, atol=1e-6)
    assert torch.allclose(other[3], torch.tensor([0, -1.5, 0, 1.5]).double(), atol=1e-6)
    cosines = torch.tensor([0.940340, 0.959980, 0.991639, 0.982841, 0.941365, 0.941365]).double()
    assert torch.allclose(torch.cosine_similarity(plain, other), cosines, atol=1e-6)


def by_loops(x: np.ndarray, groups: int, order: list[int], eps: float) -> np.ndarray:
    """One group after another, by numpy's eigenvectors."""
    count, width = x.shape
    size = width // groups
    out = np.zeros_like(x)
    for k in range(groups):
        channels = order[k * size : (k + 1) * size]
        y = np.stack([x[:, c] - x[:, c].mean() for c in channels], 1)
        covariance = np.zeros((size, size))
        for row in y:
            covariance += np.outer(row, row) / count
        values, vectors = np.linalg.eigh(covariance + eps * np.eye(size))
        root = sum(
            np.outer(vectors[:, i], vectors[:, i]) / math.sqrt(values[i]) for i in range(size)
        )
        for column, c in enumerate(channels):
            out[:, c] = (y @ root)[:, column]
    return out


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.sampled_from([(7, 6, 2), (9, 6, 3), (9, 4, 1), (5, 8, 8)]),
    seed=st.integers(0, 99),
    eps=st.sampled_from([0.0, 1e-5, 0.1]),
)
def test_it_equals_loops(sizes, seed, eps):
    rows, width, groups = sizes
    x = drawn(rows, width, seed=seed)
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    expected = by_loops(x.numpy(), groups, order.tolist(), eps)
    found = group_whitening(x, groups, order, eps=eps)
    assert np.allclose(found.numpy(), expected, atol=1e-8)
    newton = group_whitening(x, groups, order, eps=eps, engine="newton")
    assert torch.allclose(newton, found, atol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
def test_groups_are_white(engine):
    x = drawn(40, 12)
    z = group_whitening(x, 3, eps=0.0, engine=engine)
    assert z.square().sum().item() == pytest.approx(40 * 12, rel=1e-9)
    for k in range(3):
        part = z[:, 4 * k : 4 * k + 4]
        assert torch.allclose(part.T @ part / 40, torch.eye(4, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(group_whitening(3 * x + torch.arange(12), 3, eps=0.0, engine=engine), z)


def test_one_channel_a_group_is_standardised():
    x = drawn(9, 5)
    expected = (x - x.mean(0)) / x.std(0, correction=0)
    assert torch.allclose(group_whitening(x, 5, eps=0.0), expected)


def test_one_group_has_no_order_and_turns_with_the_space():
    x = drawn(20, 6)
    order = torch.randperm(6)
    z = group_whitening(x, 1, eps=0.0)
    assert torch.allclose(group_whitening(x, 1, order, eps=0.0), z)
    turn = torch.linalg.qr(drawn(6, 6, seed=1))[0]
    assert torch.allclose(group_whitening(x @ turn, 1, eps=0.0), z @ turn)
    lower = group_whitening(x, 1, eps=0.0, engine="cholesky")
    turned = group_whitening(x @ turn, 1, eps=0.0, engine="cholesky")
    assert not torch.allclose(turned, lower @ turn, atol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_through_the_matrix(engine):
    x = drawn(6, 4).requires_grad_()

    def whitened(x):
        return group_whitening(x, 2, ORDER, engine=engine, detach=False)

    assert torch.autograd.gradcheck(whitened, x)


def test_equal_eigenvalues_have_a_finite_gradient():
    x = torch.cat([torch.eye(3), -torch.eye(3)]).double().requires_grad_()
    weights = drawn(6, 3)
    (group_whitening(x, 1, detach=False) * weights).sum().backward()
    assert torch.isfinite(x.grad).all()
    by_steps = x.detach().clone().requires_grad_()
    (group_whitening(by_steps, 1, detach=False, engine="newton") * weights).sum().backward()
    assert torch.allclose(x.grad, by_steps.grad, atol=1e-8)


def test_detached_the_matrix_is_a_constant():
    x = drawn(8, 4).requires_grad_()
    matrix = []
    for k in (slice(0, 2), slice(2, 4)):
        y = x.detach()[:, k] - x.detach()[:, k].mean(0)
        values, vectors = torch.linalg.eigh(y.T @ y / 8 + 1e-5 * torch.eye(2))
        matrix.append(vectors @ torch.diag(values**-0.5) @ vectors.T)
    weights = drawn(8, 4, seed=2)
    (group_whitening(x, 2) * weights).sum().backward()
    expected = torch.cat([weights[:, :2] @ matrix[0].T, weights[:, 2:] @ matrix[1].T], 1)
    assert torch.allclose(x.grad, expected - expected.mean(0), atol=1e-10)


def test_it_computes_in_float64_whatever_it_gets():
    x = drawn(64, 32) * torch.logspace(-3, 3, 32).double() + 100
    single = group_whitening(x.float(), 4)
    assert single.dtype == torch.float32
    assert torch.allclose(single, group_whitening(x.float().double(), 4).float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(group_whitening(x.float(), 4), single)


def test_what_cannot_be_whitened_is_refused():
    with pytest.raises(
        InputError, match=r"3 groups do not divide 4 channels; choose one of 1, 2, 4"
    ):
        group_whitening(X, 3)
    with pytest.raises(InputError, match="4 sentences whiten no groups of 4 channels"):
        group_whitening(X[:4], 1)
