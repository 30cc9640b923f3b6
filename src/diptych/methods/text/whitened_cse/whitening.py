"""Whitening of groups of channels over a batch.

Dimensions: N rows, D channels, G groups, g = D / G channels of a group.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.errors import InputError

Engine = Literal["zca", "cholesky", "newton"]

_STEPS = 48
"""Newton-Schulz steps: the error of an eigenvalue falls by half a digit a step until it is of order
one, so that many suffice where the greatest is 1e12 times the least."""


def group_whitening(
    x: Tensor,
    groups: int,
    order: Tensor | None = None,
    *,
    eps: float = 1e-5,
    engine: Engine = "zca",
    detach: bool = True,
) -> Tensor:
    """Whiten groups of the channels of x (N, D) over the rows, in float64.

        Y_k = X_k - mean X_k,   C_k = Y_kᵀ Y_k / N + eps I,   Z_k = Y_k W_k,   W_k C_k W_kᵀ = I

    X_k (N, g) are the channels `order[k g : (k + 1) g]`, by default those in a row; output channel c
    belongs to input channel c. W_k is C_k^(-1/2) for the engines "zca", by eigenvectors, and
    "newton", by Newton-Schulz steps; it is the inverse of C_k's Cholesky factor, transposed, for
    "cholesky". With `detach` no gradient flows through W_k. The result has the dtype of x.

    Raises InputError if the groups do not divide the channels, and if there are no more rows than
    channels in a group, so that C_k is singular but for eps.

    Source: Zhuo et al. 2023; ZCA: Bell and Sejnowski 1997; Newton-Schulz: Higham 2008.

    >>> x = torch.tensor([[1.0, 0, 2], [0, 3, 1], [2, 1, 0], [1, 0, 1]])
    >>> z = group_whitening(x, 1, eps=0.0)
    >>> torch.allclose(z.T @ z / 4, torch.eye(3), atol=1e-6)
    True
    """
    check(x.shape[0], x.shape[1], groups)
    place = _float64(x.device)
    channels = x.to(place, torch.float64)
    if order is not None:
        order = order.to(place)
        channels = channels[:, order]
    apart = channels.unflatten(1, (groups, -1)).transpose(0, 1)  # (G, N, g)
    centred = apart - apart.mean(1, keepdim=True)
    covariance = centred.mT @ centred / len(x)
    covariance = covariance + eps * torch.eye(
        covariance.shape[-1], dtype=torch.float64, device=place
    )
    white = centred @ _ENGINES[engine](covariance.detach() if detach else covariance)
    found = white.transpose(0, 1).flatten(1)
    if order is not None:
        found = found[:, order.argsort()]
    return found.to(x.device, x.dtype)


def check(rows: int, channels: int, groups: int) -> None:
    """Raise InputError if groups of channels cannot be whitened over so many rows."""
    if channels % groups:
        fitting = [count for count in range(1, channels + 1) if channels % count == 0]
        raise InputError(
            f"{groups} groups do not divide {channels} channels; choose one of {', '.join(map(str, fitting))}"
        )
    width = channels // groups
    if rows <= width:
        raise InputError(
            f"{rows} sentences whiten no groups of {width} channels, whose covariance is singular; give batches of "
            f"more than {width}, or more groups"
        )


def _float64(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one without float64."""
    return torch.device("cpu") if device.type == "mps" else device


class _Zca(torch.autograd.Function):
    """C^(-1/2) of symmetric positive definite C (…, g, g).

    Its derivative in the basis of the eigenvectors is divided differences of λ^(-1/2), which have a
    form without λ_i - λ_j (Daleckii and Krein 1965), so equal eigenvalues do no harm:

        F_ij = -1 / ( √λ_i √λ_j (√λ_i + √λ_j) ),     dL/dC = U ( F ∘ Uᵀ dL/dW U ) Uᵀ
    """

    @staticmethod
    def forward(ctx: Any, covariance: Tensor) -> Tensor:  # type: ignore[override]
        values, vectors = torch.linalg.eigh(covariance)
        root = values.sqrt()
        ctx.save_for_backward(root, vectors)
        return (vectors / root[..., None, :]) @ vectors.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        root, vectors = ctx.saved_tensors
        row = root[..., None]
        column = root[..., None, :]
        inner = vectors.mT @ ((grad + grad.mT) / 2) @ vectors
        return vectors @ (-inner / (row * column * (row + column))) @ vectors.mT


def _cholesky(covariance: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(covariance)
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False).mT


def _newton(covariance: Tensor) -> Tensor:
    """C^(-1/2) by coupled Newton-Schulz steps on C / trace C, whose eigenvalues are at most 1."""
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    y = covariance / trace
    z = eye.expand_as(y)
    for _ in range(_STEPS):
        step = (3 * eye - z @ y) / 2
        y = y @ step
        z = step @ z
    return z / trace.sqrt()


_ENGINES = {"zca": _Zca.apply, "cholesky": _cholesky, "newton": _newton}
