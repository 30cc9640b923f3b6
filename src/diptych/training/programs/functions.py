"""The functions that a program may call, and its constants.

Those of FUNCTIONS work on each number or tensor alone; TREE are of all parameters' tensors at once.
Roots and logarithms are of |x|. Numbers are float64 and computed by NumPy, which gives inf and nan
in place of exceptions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.errors import InputError

Number = float | Tensor
"""A number, or a tensor; the result of a norm is a tensor of no dimension."""

CONSTANTS: Mapping[str, float] = {"pi": math.pi, "e": math.e, "eps": 1e-8}
OPERATORS: Mapping[str, str] = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


@dataclass(frozen=True)
class Function:
    """`call(xp, *arguments)`, where `xp` is torch, or NumPy if all arguments are numbers.

    `numbers` are the positions of arguments that must be numbers, `commutes` whether the order of
    two arguments is of no consequence, and `whole` whether a tensor's entries meet, so that shards
    of it are not enough.
    """

    arity: int
    call: Callable[..., Any]
    numbers: tuple[int, ...] = ()
    commutes: bool = False
    whole: bool = False


def _interpolate(xp: Any, x: Any, y: Any, weight: float | Tensor) -> Any:
    """(1 - weight) x + weight y, from the side whose share is larger: x + weight (y - x) below 0.5.

    These are the sums that torch's AdamW and our Lion form, so programs of them have their bits.
    """
    if xp is np or isinstance(weight, Tensor):
        return (1 - weight) * x + weight * y
    if isinstance(x, Tensor) and isinstance(y, Tensor) and abs(weight) < 0.5:
        return torch.lerp(x, y, weight)
    return torch.add(torch.as_tensor(y * weight), torch.as_tensor(x), alpha=1 - weight)


def interpolate_product(x1: Tensor, x2: Tensor, y: Tensor, weight: float) -> Tensor:
    """`interpolate(x1 * x2, y, weight)` in which torch forms the product, as in its AdamW."""
    return torch.addcmul(y * weight, x1, x2, value=1 - weight)


def _unary(name: str) -> Function:
    return Function(1, lambda xp, x: getattr(xp, name)(x))


_SAME_NAME = (
    *("abs", "sign", "square", "reciprocal", "negative"),
    *("exp", "exp2", "expm1"),
    *("sin", "cos", "tan", "arcsin", "arccos", "arctan"),
    *("sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh"),
)
"""Functions that have one name in torch and in NumPy."""

FUNCTIONS: Mapping[str, Function] = {
    "add": Function(2, lambda xp, x, y: x + y, commutes=True),
    "sub": Function(2, lambda xp, x, y: x - y),
    "mul": Function(2, lambda xp, x, y: x * y, commutes=True),
    "div": Function(2, lambda xp, x, y: x / y),
    **{name: _unary(name) for name in _SAME_NAME},
    "sqrt": Function(1, lambda xp, x: xp.sqrt(xp.abs(x))),
    "cube": Function(1, lambda xp, x: x * x * x),
    "cbrt": Function(1, lambda xp, x: xp.sign(x) * xp.abs(x) ** (1 / 3)),
    "exp10": Function(1, lambda xp, x: 10.0**x),
    "log": Function(1, lambda xp, x: xp.log(xp.abs(x))),
    "log2": Function(1, lambda xp, x: xp.log2(xp.abs(x))),
    "log10": Function(1, lambda xp, x: xp.log10(xp.abs(x))),
    "log1p": Function(1, lambda xp, x: xp.log(xp.abs(1 + x))),
    "power": Function(2, lambda xp, x, y: x**y),
    "interpolate": Function(3, _interpolate, numbers=(2,)),
    "norm": Function(1, lambda xp, x: xp.linalg.norm(x), whole=True),
}


def _global_norm(x: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(each) for each in x]).norm()


def _dot(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(x, y, strict=True)]).sum()


def _cosine(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    return _dot(x, y) / (_global_norm(x) * _global_norm(y))


def _clip(x: Sequence[Tensor], max_norms: Sequence[Number]) -> list[Tensor]:
    """Scale all tensors so that their norm together is at most the bound of each."""
    norm = _global_norm(x)
    return [
        each * torch.clamp(bound / norm, max=1.0) for each, bound in zip(x, max_norms, strict=True)
    ]


TREE: Mapping[str, Function] = {
    "global_norm": Function(1, _global_norm, whole=True),
    "dot": Function(2, _dot, commutes=True, whole=True),
    "cosine": Function(2, _cosine, commutes=True, whole=True),
    "clip_by_global_norm": Function(2, _clip, numbers=(1,), whole=True),
}
"""Functions of all tensors: `call` takes a list with an entry for each parameter."""

ALL: Mapping[str, Function] = {**FUNCTIONS, **TREE}


def call(name: str, arguments: Sequence[Sequence[Number]]) -> list[Number]:
    """Call a function on arguments with an entry for each parameter; return an entry for each.

    Raises InputError if an argument must be a number and is a tensor, or the other way round.
    """
    function = ALL[name]
    for at in function.numbers:
        if any(isinstance(each, Tensor) and each.ndim for each in arguments[at]):
            raise InputError(f"argument {at + 1} of {name} must be a number, not a tensor")
    if name not in TREE:
        return [_each(function, values) for values in zip(*arguments, strict=True)]
    for at, argument in enumerate(arguments):
        if at not in function.numbers and not all(isinstance(each, Tensor) for each in argument):
            raise InputError(f"argument {at + 1} of {name} must be a tensor, not a number")
    found = function.call(*arguments)
    return found if isinstance(found, list) else [found] * len(arguments[0])


def _each(function: Function, arguments: Sequence[Number]) -> Number:
    if any(isinstance(each, Tensor) for each in arguments):
        return function.call(torch, *arguments)
    with np.errstate(all="ignore"):
        return float(function.call(np, *map(np.float64, arguments)))
