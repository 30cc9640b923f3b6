"""Optimisers by name, one file each, and the parameter groups they get.

A file has `build(groups, recipe) -> torch.optim.Optimizer`; a new file is a new name for `--optimizer`.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diptych.errors import InputError, unknown


def names() -> list[str]:
    """The optimisers there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def scale_of(name: str, scale: Mapping[str, float]) -> float:
    """The learning-rate multiplier of a parameter: that of the longest prefix that fits, 1 where none does.

    >>> scale_of("model.text.blocks.0", {"model.text": 0.1, "": 1.0})
    0.1
    """
    fitting = [prefix for prefix in scale if name == prefix or prefix == "" or name.startswith(prefix + ".")]
    return scale[max(fitting, key=len)] if fitting else 1.0


def freeze(module: nn.Module, scale: Mapping[str, float]) -> None:
    """Set `requires_grad` by multiplier, so that 0 freezes; InputError for a prefix that fits no parameter."""
    parameters = dict(module.named_parameters())
    for prefix in scale:
        if not any(name == prefix or prefix == "" or name.startswith(prefix + ".") for name in parameters):
            raise InputError(
                f"no parameter's name begins with {prefix!r}; there are {', '.join(sorted(_tops(parameters)))}"
            )
    for name, parameter in parameters.items():
        if not getattr(parameter, "frozen", False):
            parameter.requires_grad_(scale_of(name, scale) > 0)


def _tops(names: Mapping[str, Any]) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in names}


def build(module: nn.Module, recipe: Any, scale: Mapping[str, float]) -> torch.optim.Optimizer:
    """The optimiser of the trainable parameters, each in exactly one group.

    Groups differ by learning-rate multiplier, by weight decay, which skips parameters of one dimension or less (biases,
    norms, temperatures), by whether they are the weights of linear and convolution layers (`matrix`), and by whether
    they are scalars, which are never sharded: torch takes no group of both.
    """
    if recipe.optimizer not in names():
        raise unknown("optimizer", recipe.optimizer, names())
    matrices = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    groups: dict[tuple[float, float, bool, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        multiplier, decay = scale_of(name, scale), recipe.weight_decay if parameter.ndim > 1 else 0.0
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
    module_of = importlib.import_module(f"{__name__}.{recipe.optimizer}")
    return module_of.build(list(groups.values()), recipe)
