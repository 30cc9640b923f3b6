"""Lion (Chen et al., NeurIPS 2023): each coordinate moves by lr, by the sign of a momentum; one
moment a parameter.

    c = b1 m + (1 - b1) g,   w <- (1 - lr decay) w - lr sign(c),   m <- b2 m + (1 - b2) g

The recipe's rate and decay are read as AdamW's: Lion uses lr / factor and decay · factor, so that
lr · decay is kept. `lion` has the factor 10; set others by `lion:factor=3` or
`lion:betas=(0.95,0.98)`; `lion:factor=1` uses rate and decay unchanged. The recipe's betas and eps
are AdamW's and are not used.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.errors import InputError
from diptych.spec import Positive

# pyright: reportPrivateImportUsage=false
# torch documents its calls for many tensors by the names torch._foreach_*.


@dataclass(frozen=True, kw_only=True)
class Options:
    """`factor` divides the recipe's rate and multiplies its decay; the paper recommends 3 to 10.
    `betas` are Lion's: (0.95, 0.98) is more stable, and the paper's choice for language models."""

    factor: Positive = 10.0
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        _check_betas(self.betas)


def build(groups: list[dict[str, Any]], recipe: Any, options: Options) -> torch.optim.Optimizer:
    """Return Lion at the groups' rates and decays, scaled by the factor; a schedule works as with
    AdamW."""
    derived = [
        {
            **group,
            "lr": group["lr"] / options.factor,
            "multiplier": group["multiplier"] / options.factor,
            "weight_decay": group["weight_decay"] * options.factor,
        }
        for group in groups
    ]
    return Lion(derived, lr=recipe.lr / options.factor, betas=options.betas)


class Lion(torch.optim.Optimizer):
    """The paper's form: no step count, no bias correction, no epsilon; sign(0) = 0; decay times the
    scheduled rate.

    The direction c and the momentum m weigh the gradient by different betas, and c is computed
    before m is updated. Parameters without gradient are not changed, decay included. The state is
    `momentum`, of the parameter's shape and type. `decoupled_by_init_lr` divides a group's decay by
    its initial rate, so that the first step decays by `weight_decay` itself; it is not part of the
    paper. `foreach` updates all tensors of a group in few calls, at the cost of a copy of them;
    None does so on a GPU. Raises InputError for arguments out of range and for sparse gradients.

    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    >>> w.grad = torch.tensor([0.5, -1.0, 0.0])
    >>> Lion([w], lr=0.1, weight_decay=0.01).step()
    >>> w.data
    tensor([ 0.8990, -1.8980,  0.4995])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        decoupled_by_init_lr: bool = False,
        foreach: bool | None = None,
    ):
        self.decoupled_by_init_lr = decoupled_by_init_lr
        super().__init__(
            params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "foreach": foreach}
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; missing options have the defaults."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        lr = group["lr"]
        decay = group["weight_decay"]
        if lr < 0 or decay < 0:
            raise InputError(
                f"Lion with lr {lr} and weight_decay {decay}; they must not be negative"
            )
        _check_betas(group["betas"])
        if self.decoupled_by_init_lr and decay:
            group["weight_decay"] = decay / lr if lr else 0.0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update once; return the result of the closure, which is called with gradients enabled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if found := [
                self._tensors(parameter)
                for parameter in group["params"]
                if parameter.grad is not None
            ]:
                parameters, gradients, momenta = map(list, zip(*found, strict=True))
                at_once = parameters[0].is_cuda if group["foreach"] is None else group["foreach"]
                update = _together if at_once else _one_by_one
                b1, b2 = group["betas"]
                update(parameters, gradients, momenta, group["lr"], b1, b2, group["weight_decay"])
        return loss

    def _tensors(self, parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return parameter, gradient and momentum; complex ones as pairs of reals."""
        gradient = parameter.grad
        state = self.state[parameter]
        assert gradient is not None
        if gradient.is_sparse:
            raise InputError(
                "Lion takes no sparse gradients; make the layer's gradient dense (sparse=False)"
            )
        if not state:
            state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        found = parameter, gradient, state["momentum"]
        return tuple(map(torch.view_as_real, found)) if parameter.is_complex() else found  # type: ignore[return-value]


def _check_betas(betas: Any) -> None:
    if (
        not isinstance(betas, tuple | list)
        or len(betas) != 2
        or not all(0 <= beta < 1 for beta in betas)
    ):
        raise InputError(
            f"betas of lion are {betas!r}; give two numbers in [0, 1), such as (0.9, 0.99)"
        )


def _one_by_one(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    lr: float,
    b1: float,
    b2: float,
    decay: float,
) -> None:
    for w, g, m in zip(parameters, gradients, momenta, strict=True):
        c = m.mul(b1).add_(g, alpha=1 - b1)
        w.mul_(1 - lr * decay).add_(c.sign_(), alpha=-lr)
        m.mul_(b2).add_(g, alpha=1 - b2)


def _together(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    lr: float,
    b1: float,
    b2: float,
    decay: float,
) -> None:
    """`_one_by_one` with torch's multi-tensor calls, which gives the same bits."""
    c = torch._foreach_mul(momenta, b1)
    torch._foreach_add_(c, gradients, alpha=1 - b1)
    torch._foreach_sign_(c)
    torch._foreach_mul_(parameters, 1 - lr * decay)
    torch._foreach_add_(parameters, c, alpha=-lr)
    torch._foreach_mul_(momenta, b2)
    torch._foreach_add_(momenta, gradients, alpha=1 - b2)
