"""Optimisers by name, one file each, and their parameter groups.

A file has `build(groups, recipe) -> torch.optim.Optimizer`; a new file is a new name for
`--optimizer`. If it has a dataclass `Options`, `NAME:key=value` sets them and `build` receives them
as its third argument. A program (`training.programs`), FILE.py or its text, is an optimiser too.
"""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from diptych.errors import InputError, located, unknown
from diptych.spec import configure, parse
from diptych.training.programs import optimizer as interpreted
from diptych.training.programs import program as programs
from diptych.training.programs.execute import check


def names() -> list[str]:
    """Return the names of all optimisers."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def scale_of(name: str, scale: Mapping[str, float]) -> float:
    """Return the learning-rate multiplier of a parameter: that of the longest matching prefix, or
    1.

    >>> scale_of("model.text.blocks.0", {"model.text": 0.1, "": 1.0})
    0.1
    """
    prefix = longest(name, scale)
    return 1.0 if prefix is None else scale[prefix]


def longest(name: str, prefixes: Iterable[str]) -> str | None:
    """Return the longest of the prefixes that a parameter's name has, whole parts of it; None if it
    has none.

    >>> longest("model.text.blocks.0", ["model", "model.te", ""])
    'model'
    """
    fitting = [
        prefix
        for prefix in prefixes
        if name == prefix or prefix == "" or name.startswith(prefix + ".")
    ]
    return max(fitting, key=len, default=None)


def freeze(module: nn.Module, scale: Mapping[str, float]) -> None:
    """Set `requires_grad` by multiplier, so that 0 freezes. Raises InputError for a prefix that
    matches no parameter."""
    parameters = dict(module.named_parameters())
    check_prefixes(parameters, scale)
    for name, parameter in parameters.items():
        if not getattr(parameter, "frozen", False):
            parameter.requires_grad_(scale_of(name, scale) > 0)


def check_prefixes(names: Mapping[str, Any], prefixes: Iterable[str]) -> None:
    """Raise InputError for a prefix that no parameter's name has."""
    for prefix in prefixes:
        if not any(longest(name, [prefix]) is not None for name in names):
            raise InputError(
                f"no parameter's name begins with {prefix!r}; there are {', '.join(sorted(_tops(names)))}"
            )


def bounded(
    module: nn.Module, clip: Mapping[str, float], rest: float | None
) -> list[tuple[float, list[nn.Parameter]]]:
    """Return the trainable parameters of each prefix of `clip`, the longest first, with the bound
    of their gradients' norm, and all others with the bound `rest` (infinite if None).

    Raises InputError for a prefix that matches no parameter.
    """
    named = dict(module.named_parameters())
    check_prefixes(named, clip)
    groups: dict[str | None, list[nn.Parameter]] = {}
    for name, parameter in named.items():
        if parameter.requires_grad:
            groups.setdefault(longest(name, clip), []).append(parameter)
    unbounded = float("inf") if rest is None else rest
    return [
        (unbounded if prefix is None else clip[prefix], found) for prefix, found in groups.items()
    ]


def _tops(names: Mapping[str, Any]) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in names}


def chosen(optimizer: str) -> tuple[ModuleType, list[Any]]:
    """The module of an optimiser and what its `build` takes behind groups and recipe, of a spec
    such as "lion:factor=10", or of a program; InputError for what does not exist."""
    if programs.is_program(optimizer):
        return interpreted, [programs.read(optimizer)]
    spec = parse(optimizer)
    if spec.name not in names():
        raise unknown("optimizer", spec.name, names())
    module = importlib.import_module(f"{__name__}.{spec.name}")
    if hasattr(module, "Options"):
        return module, [configure(module.Options, spec.options, f"optimizer {spec.name!r}")]
    if spec.options:
        raise InputError(f"optimizer {spec.name!r} takes no options; write --optimizer {spec.name}")
    return module, []


def recorded(optimizer: str) -> str:
    """An optimiser as config.yaml has it: of a program the text, so that a run repeats without its
    file, and a changed file is another optimiser.

    Raises InputError for one that does not exist, and for a program that cannot train.
    """
    _, options = chosen(optimizer)
    if not programs.is_program(optimizer):
        return optimizer
    (program,) = options
    with located(title(optimizer)):
        check(program)
    return str(program)


def title(optimizer: str) -> str:
    """An optimiser in a few words: of a program its file, or of its text the hash.

    >>> title("lion:factor=3"), title("def train(weight, gradient, lr):\\n return gradient")
    ('lion:factor=3', 'program 39879d')
    """
    if not programs.is_text(optimizer):
        return optimizer
    return f"program {programs.digest(programs.parse(optimizer))[:6]}"


def build(module: nn.Module, recipe: Any, scale: Mapping[str, float]) -> torch.optim.Optimizer:
    """Return the optimiser of the trainable parameters, each in exactly one group.

    Groups differ by learning-rate multiplier, by weight decay, which skips parameters of one
    dimension or less (biases, norms, temperatures), by whether they are the weights of linear and
    convolution layers (`matrix`), and by whether they are scalars, which are never sharded: torch
    allows no group with both.
    """
    optimizer, options = chosen(recipe.optimizer)
    matrices = {
        id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    groups: dict[tuple[float, float, bool, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        multiplier = scale_of(name, scale)
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        matrix = id(parameter) in matrices
        group = groups.setdefault(
            (multiplier, decay, matrix, parameter.ndim == 0),
            {
                "params": [],
                "names": [],
                "lr": recipe.lr * multiplier,
                "multiplier": multiplier,
                "weight_decay": decay,
                "matrix": matrix,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise InputError("nothing to train: every parameter is frozen")
    return optimizer.build(list(groups.values()), recipe, *options)


def in_one_pass(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Whether torch can update these parameters in one pass over weights, gradients and moments, which
    takes a fifth of the time of its separate operations: those of a CPU or a CUDA GPU."""
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return devices <= {"cpu", "cuda"}


@torch.no_grad()
def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give what an optimiser keeps of a parameter the parameter's memory layout, which saved state has
    lost: an update in one pass pairs numbers by their places in memory."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            same = type(value) is torch.Tensor and value.shape == parameter.shape
            if same and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the tensors that an optimiser keeps between steps, on this rank: its
    moments, and step counts.

    >>> layer = nn.Linear(10, 10)
    >>> optimizer = torch.optim.AdamW(layer.parameters())
    >>> state_bytes(optimizer)  # nothing before the first step
    0
    >>> layer(torch.ones(1, 10)).sum().backward()
    >>> optimizer.step()
    >>> state_bytes(optimizer)  # two moments of 110 floats, and two counts
    888
    """
    values = [value for state in optimizer.state.values() for value in state.values()]
    held = [value.to_local() if hasattr(value, "to_local") else value for value in values]
    return sum(value.nbytes for value in held if isinstance(value, torch.Tensor))
