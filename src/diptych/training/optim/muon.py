"""Muon (Jordan et al., 2024): momentum made orthogonal, for the weights of linear and convolution
layers.

    M <- mu M + (1 - mu) G,   U = (1 - mu) G + mu M,   W <- (1 - lr decay) W - lr 0.2 sqrt(max(n, m)) NS(U)

NS is five Newton-Schulz steps towards U (U^T U)^(-1/2); a convolution's weight is a matrix of n
filters. The factor 0.2 sqrt(max(n, m)) (Liu et al., 2025) gives the update the size of AdamW's, so
`lr` and decay keep their meaning; all other parameters are updated by AdamW. torch's own Muon
(torch.optim.Muon) accepts matrices only, hence no convolutions.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from diptych import collectives

_MOMENTUM = 0.95
_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def build(groups: list[dict[str, Any]], recipe: Any) -> torch.optim.Optimizer:
    """Return Muon for groups of matrices, and AdamW with the recipe's betas and eps for the
    others."""
    return Muon(groups, betas=tuple(recipe.betas), eps=recipe.eps)


class Muon(torch.optim.AdamW):
    """AdamW whose groups marked `matrix` use Muon's update; their state is one momentum for each
    parameter."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        everything = self.param_groups
        self.param_groups = [group for group in everything if not group["matrix"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = everything
        for group in everything:
            if group["matrix"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, group["lr"], group["weight_decay"])
        return loss

    def _update(self, parameter: Tensor, lr: float, decay: float) -> None:
        gradient = parameter.grad
        state = self.state[parameter]
        assert gradient is not None
        if not state:
            state |= {
                "step": torch.tensor(0.0),
                "momentum": torch.zeros_like(gradient),
            }  # AdamW expects a step
        state["step"] += 1
        momentum = state["momentum"]
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        update = collectives.full_tensor(gradient.lerp(momentum, _MOMENTUM)).flatten(
            1
        )  # with shards, the whole matrix on each rank
        size = 0.2 * sqrt(max(update.shape))
        step = collectives.shared(orthogonal(update).view(parameter.shape), parameter)
        parameter.mul_(1 - lr * decay).add_(step, alpha=-lr * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """Newton-Schulz steps on (n, m), which bring its singular values near 1 (between about 0.7 and
    1.2).

    >>> orthogonal(torch.diag(torch.tensor([3.0, 1.0]))).diagonal().round().tolist()
    [1.0, 1.0]
    """
    a, b, c = _COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)  # a spectral norm of at most 1
    for _ in range(_STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
