"""`Objective`: a function of this package as an `nn.Module`, for a training loop of one's own."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from diptych.errors import unknown


class Objective(nn.Module):
    """An objective with its settings; a setting that is a parameter or a module is learned.

        loss = function(*features, **settings)

    A module among the settings is called without arguments for its value, as
    `towers.nn.parts.Temperature`, the learned scale. Raises InputError for a setting that the
    function does not have.

    >>> import torch
    >>> from diptych.objectives import sigmoid_pairs
    >>> from diptych.towers.nn.parts import Temperature
    >>> loss = Objective(sigmoid_pairs, scale=Temperature(10.0), bias=nn.Parameter(torch.tensor(-5.0)))
    >>> x = torch.eye(2)
    >>> round(loss(x, x).item(), 4), [name for name, _ in loss.named_parameters()]
    (0.0134, ['bias', 'scale.value'])
    """

    def __init__(self, function: Callable[..., Tensor], **settings: Any):
        super().__init__()
        known = inspect.signature(function).parameters
        for name in settings:
            if name not in known:
                raise unknown(f"setting of {function.__name__}", name, known)
        self.function = function
        self.fixed: dict[str, Any] = {}
        self.learned: list[str] = []
        for name, value in settings.items():
            if isinstance(value, nn.Module | nn.Parameter):
                setattr(self, name, value)
                self.learned.append(name)
            else:
                self.fixed[name] = value

    def forward(self, *features: Tensor, **more: Any) -> Tensor:
        """The loss, a scalar; `more` are settings of this call, such as targets."""
        values = {name: getattr(self, name) for name in self.learned}
        values = {
            name: value() if isinstance(value, nn.Module) else value
            for name, value in values.items()
        }
        return self.function(*features, **{**self.fixed, **values, **more})

    def extra_repr(self) -> str:
        """The function and its fixed settings."""
        return ", ".join(
            [self.function.__name__, *(f"{name}={value}" for name, value in self.fixed.items())]
        )
