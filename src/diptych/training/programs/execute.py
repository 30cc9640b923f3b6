"""Programs interpreted: on tensors, on shapes alone, and as a check on a few numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.errors import InputError
from diptych.training.programs.functions import (
    CONSTANTS,
    Number,
    call,
    interpolate_product,
)
from diptych.training.programs.program import Program, Statement

_SHAPES = ((2, 3), (4,), ())
"""Parameters of which the checks are: a matrix, a bias and a temperature."""
_STEPS = 3

Values = Sequence[Number]
"""An entry for each parameter."""


def execute(program: Program, inputs: Mapping[str, Values]) -> list[Values]:
    """Return the update and the states of each parameter.

    `inputs` has tensors `weight`, `gradient`, `state1`, … of equal shape for each parameter, and
    numbers `lr` and `step` (from 1). Raises InputError for a call with arguments of the wrong kind.
    """
    count = len(inputs["weight"])
    known: dict[str, Values] = {name: [value] * count for name, value in CONSTANTS.items()}
    known |= inputs
    products: dict[str, Sequence[Values]] = {}  # variable -> the factors of which it is the product
    for statement in program.statements:
        given = [
            known[each] if isinstance(each, str) else [each] * count for each in statement.arguments
        ]
        found = _interpolated(statement, given, products) or call(statement.function, given)
        known[statement.target] = found
        products.pop(statement.target, None)
        if statement.function in ("mul", "square"):
            products[statement.target] = (given[0], given[-1])
    return [known[name] for name in program.outputs]


def _interpolated(
    statement: Statement, given: Sequence[Values], products: Mapping[str, Sequence[Values]]
) -> list[Number] | None:
    """Return the result of an interpolation from a product, None of any other statement.

    The product is formed with the sum, as torch's AdamW forms that of its second moment: some
    processors round once where a product of its own is rounded twice.
    """
    first = statement.arguments[0]
    if statement.function != "interpolate" or first not in products:
        return None
    rows: list[Any] = list(zip(*products[str(first)], *given[1:], strict=True))
    for *tensors, weight in rows:
        shapes = {each.shape if isinstance(each, Tensor) else None for each in tensors}
        if len(shapes) > 1 or None in shapes or isinstance(weight, Tensor):
            return None
    return [interpolate_product(*row) for row in rows]


def check(program: Program) -> None:
    """Raise InputError if a program cannot train: by its shapes, and by numbers that are not
    finite in its first steps."""
    check_shapes(program)
    check_numbers(program)


def check_shapes(program: Program) -> None:
    """Execute a program on shapes without numbers. Raises InputError if the update or a state has
    not the shape of its parameter."""
    matrix = torch.empty(_SHAPES[0], device="meta")
    _run(program, [matrix], [torch.empty_like(matrix)], {}, 1)


def check_numbers(program: Program) -> None:
    """Execute a program on a few numbers, zeros among them as in weights and gradients of a model.
    Raises InputError if a result is not finite."""
    draws = torch.Generator().manual_seed(0)
    weights = [_with_zero(torch.randn(shape, generator=draws)) for shape in _SHAPES]
    states: dict[str, Values] = {}
    for step in range(1, _STEPS + 1):
        gradients = [_with_zero(0.1 * torch.randn(shape, generator=draws)) for shape in _SHAPES]
        update, *after = _run(program, weights, gradients, states, step)
        for name, values in zip(("the update", *program.states), (update, *after), strict=True):
            if not all(torch.isfinite(value).all() for value in values):
                raise InputError(
                    f"{name} is not finite at step {step} of a check with small numbers, 0 among them"
                )
        states = dict(zip(program.states, after, strict=True))
        weights = [weight - each for weight, each in zip(weights, update, strict=True)]


def _with_zero(values: Tensor) -> Tensor:
    if values.ndim:
        values[0] = 0.0
    return values


def _run(
    program: Program,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Mapping[str, Values],
    step: int,
) -> list[list[Tensor]]:
    """Execute one step of a check, at the rate 0.01; states are 0 at first."""
    inputs: dict[str, Values] = {
        "weight": weights,
        "gradient": gradients,
        "lr": [0.01] * len(weights),
        "step": [float(step)] * len(weights),
        **{name: [torch.zeros_like(weight) for weight in weights] for name in program.states},
        **states,
    }
    try:
        outputs = execute(program, inputs)
    except (RuntimeError, TypeError) as error:  # shapes that torch does not join
        raise InputError(f"a step fails: {error}") from None
    found = []
    for name, values in zip(("the update", *program.states), outputs, strict=True):
        for value, weight in zip(values, weights, strict=True):
            shape = tuple(value.shape) if isinstance(value, Tensor) else "that of a number"
            if shape != tuple(weight.shape):
                raise InputError(
                    f"{name} has the shape {shape}, and its parameter {tuple(weight.shape)}"
                )
        found.append([value for value in values if isinstance(value, Tensor)])
    return found
