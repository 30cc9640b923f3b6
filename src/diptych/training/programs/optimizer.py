"""An optimiser that interprets a program.

    w <- (1 - lr decay) w - update

The program gives the update and the states; the decay is the recipe's, outside of the program, with
no decay of biases, norms and temperatures as with every optimiser.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from diptych.collectives import is_sharded, local_part
from diptych.errors import InputError
from diptych.training.programs.execute import Values, execute
from diptych.training.programs.functions import ALL, TREE
from diptych.training.programs.program import Program


def build(groups: list[dict[str, Any]], recipe: Any, program: Program) -> torch.optim.Optimizer:
    """Return the optimiser of a program at the groups' rates and decays. Raises InputError for shares
    of parameters if it needs whole ones."""
    whole = sorted(name for name in program.functions if ALL[name].whole)
    sharded = any(is_sharded(weight) for group in groups for weight in group["params"])
    if sharded and whole:
        raise InputError(
            f"the program of --optimizer calls {', '.join(whole)}, of whole tensors, which --shard "
            "splits; leave --shard out"
        )
    return ProgramOptimizer(groups, program, lr=recipe.lr)


class ProgramOptimizer(torch.optim.Optimizer):
    """Trains by a program. Its states are zeros of the parameter's shape at first, and `step` counts
    a parameter's updates from 1; parameters without gradient are not changed.
    `execute.check` tells whether a program can train.

    >>> from diptych.training.programs.known import lion
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    >>> w.grad = torch.tensor([0.5, -1.0, 0.0])
    >>> ProgramOptimizer([w], lion(), lr=0.1, weight_decay=0.01).step()
    >>> w.data
    tensor([ 0.8990, -1.8980,  0.4995])
    """

    def __init__(
        self, params: Iterable[Any], program: Program, lr: float = 1e-3, weight_decay: float = 0.0
    ):
        self.program = program
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update once; return the result of the closure, which is called with gradients enabled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rows = [
            (parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if self.program.functions & set(TREE):
            self._update(rows)
        else:  # one at a time, so that intermediate results of one parameter are held
            for row in rows:
                self._update([row])
        return loss

    def _update(self, rows: list[tuple[Tensor, dict[str, Any]]]) -> None:
        if not rows:
            return
        states = [self._state(parameter) for parameter, _ in rows]
        weights = [local_part(parameter) for parameter, _ in rows]
        inputs: dict[str, Values] = {
            "weight": weights,
            "gradient": [local_part(parameter.grad) for parameter, _ in rows],  # type: ignore[arg-type]
            "lr": [group["lr"] for _, group in rows],
            "step": [float(state["step"]) for state in states],
        }
        for name in self.program.states:
            inputs[name] = [local_part(state[name]) for state in states]
        outputs = execute(self.program, inputs)
        given = {id(value) for values in inputs.values() for value in values}
        update, *after = [  # what is returned as it came is copied before anything is written
            [value.clone() if id(value) in given else value for value in values]  # type: ignore[union-attr]
            for values in outputs
        ]
        for name, values in zip(self.program.states, after, strict=True):
            for old, new in zip(inputs[name], values, strict=True):
                old.copy_(new)  # type: ignore[union-attr]
        for weight, change, (_, group) in zip(weights, update, rows, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change)

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        """Return the state of a parameter, its step already counted."""
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in self.program.states:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        return state
