"""Conversion of foreign state dicts by rules, into a dual encoder without a second copy in
memory."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from diptych.errors import InputError
from diptych.towers.dual import DualEncoder

Change = Callable[[Tensor], Sequence[Tensor]]


def same(x: Tensor) -> Sequence[Tensor]:
    """The tensor unchanged."""
    return (x,)


def thirds(x: Tensor) -> Sequence[Tensor]:
    """Split a matrix of q, k and v."""
    return x.chunk(3)


def halves(x: Tensor) -> Sequence[Tensor]:
    """Split a matrix of k and v."""
    return x.chunk(2)


def turned(x: Tensor) -> Sequence[Tensor]:
    """Transpose a matrix that its library multiplies from the right."""
    return (x.T,)


def row(x: Tensor) -> Sequence[Tensor]:
    """Reshape a vector to a matrix of one row."""
    return (x.reshape(1, -1),)


def rows(x: Tensor) -> Sequence[Tensor]:
    """Drop the first dimension, of size 1."""
    return (x[0],)


def scalar(x: Tensor) -> Sequence[Tensor]:
    """Reshape a tensor of one number to a scalar."""
    return (x.reshape(()),)


@dataclass(frozen=True)
class Rule:
    """Tensors whose full name matches `pattern` become `targets`, which may use its named groups.

    Without targets, the tensors are left out.
    """

    pattern: str
    targets: tuple[str, ...] = ()
    change: Change = same

    def names(self, name: str) -> list[str] | None:
        """Our names for the targets, or None if the rule does not match."""
        match = re.fullmatch(self.pattern, name)
        return None if match is None else [match.expand(target) for target in self.targets]

    def apply(self, name: str, value: Tensor) -> dict[str, Tensor] | None:
        """Our names and tensors, or None if the rule does not match."""
        names = self.names(name)
        return (
            dict(zip(names, self.change(value), strict=True))
            if names
            else None
            if names is None
            else {}
        )


def under(theirs: str, ours: str, rules: Sequence[Rule]) -> list[Rule]:
    """The rules of a part with prefixes for the whole: `theirs` is a pattern, `ours` a target."""
    return [
        Rule(theirs + rule.pattern, tuple(ours + target for target in rule.targets), rule.change)
        for rule in rules
    ]


def fill(
    config: Mapping[str, Any],
    state: dict[str, Tensor],
    rules: Sequence[Rule],
    where: str,
    modules: Mapping[str, nn.Module] = MappingProxyType({}),
) -> DualEncoder:
    """Build the dual encoder of a config with the tensors of `state`, float32, in evaluation mode.

    Its parameters are built on the meta device, and it takes over the tensors; `state` is emptied.
    Towers named by `modules` ("image", "text") keep a foreign module with its weights. Raises
    InputError for tensors that are missing, unknown, of another shape, or of integers where
    floating-point numbers are expected; `where` is their origin.
    """
    encoder = _empty(config, modules)
    take(encoder, state, rules, where, tuple(f"{side}.model." for side in modules))
    for module in encoder.modules():  # timm places some buffers where the parameters are
        refresh = getattr(module, "init_non_persistent_buffers", None)
        if refresh and any(value.is_meta for value in module.buffers(recurse=False)):
            refresh()
    return encoder.eval()


def take(
    module: nn.Module,
    state: dict[str, Tensor],
    rules: Sequence[Rule],
    where: str,
    foreign: tuple[str, ...] = (),
) -> None:
    """Give a module, whose parameters are on the meta device, the tensors of `state`, which is
    emptied; what begins with `foreign` has its weights. Errors are those of `fill`."""
    wanted = {
        name: value for name, value in module.state_dict().items() if not name.startswith(foreign)
    }
    found: dict[str, Tensor] = {}
    problems: list[str] = []
    for name in list(state):
        value = state.pop(name)
        renamed = next(
            (new for rule in rules if (new := rule.apply(name, value)) is not None), None
        )
        if renamed is None or not renamed.keys() <= wanted.keys():
            problems.append(f"has the unknown {name} {_shape(value)}")
            continue
        for key, part in renamed.items():
            problem = _misfit(name, part, wanted[key])
            if problem:
                problems.append(problem)
            # A slice would keep the whole tensor alive, and slices of one tensor could not be saved
            # together.
            part = part.float() if part.is_floating_point() else part
            found[key] = part.contiguous() if len(renamed) == 1 else part.clone()
    problems += [f"lacks what becomes our {key}" for key in wanted if key not in found]
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise InputError(
            f"{where}: {problems[0]}{more}; name the model that these weights belong to"
        )
    module.load_state_dict(found, strict=False, assign=True)  # foreign tensors are not in `found`


def _empty(config: Mapping[str, Any], modules: Mapping[str, nn.Module]) -> DualEncoder:
    """A dual encoder with parameters on the meta device; buffers that are in no state dict, such as
    masks and tables of positions, have their values."""
    with torch.device("meta"):
        encoder = DualEncoder.from_config(config)
    for side, module in modules.items():
        getattr(encoder, side).set_model(module)
    if "image" in encoder.sides:
        preprocess = encoder.image.preprocess
        encoder.image.mean = torch.tensor(preprocess.mean).view(-1, 1, 1)
        encoder.image.std = torch.tensor(preprocess.std).view(-1, 1, 1)
    kept = encoder.state_dict()
    if not any(value.is_meta and name not in kept for name, value in encoder.named_buffers()):
        return encoder
    assert not modules, "the buffers of foreign modules have values"
    # torch annotates the hook without the value that it may return
    handle = register_module_parameter_registration_hook(_on_meta)  # type: ignore[arg-type]
    try:
        with torch.random.fork_rng(devices=[]):
            return DualEncoder.from_config(config)
    finally:
        handle.remove()


def _on_meta(_: nn.Module, __: str, value: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(value.to("meta"), requires_grad=value.requires_grad)


def back(
    state: Mapping[str, Tensor], theirs: Mapping[str, Tensor], rules: Sequence[Rule]
) -> dict[str, Tensor]:
    """The inverse of `fill`: our tensors with the names and shapes of `theirs`, a foreign state
    dict.

    The same rules are applied in reverse; tensors that they leave out are left out. Raises KeyError
    or RuntimeError if `state` has another architecture, so callers check the config first.
    """
    made = {}
    used = set()
    for name, wanted in theirs.items():
        rule, ours = next((rule, ours) for rule in rules if (ours := rule.names(name)) is not None)
        if not ours:
            continue
        parts = [state[key] for key in ours]
        joined = (
            parts[0].T
            if rule.change is turned
            else torch.cat(parts)
            if len(parts) > 1
            else parts[0]
        )
        made[name] = joined.reshape(wanted.shape).clone(memory_format=torch.contiguous_format)
        used.update(ours)
    if left := state.keys() - used:
        raise KeyError(f"no place for {min(left)}")
    return made


def square(size: int | Sequence[int], where: str) -> int:
    """The side of a square given as one number or two. Raises InputError if the two differ."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise InputError(
            f"{where} has images or patches of {size} pixels; only square ones are supported"
        )
    return sides.pop()


def _misfit(name: str, value: Tensor, wanted: Tensor) -> str | None:
    if not value.is_floating_point() and wanted.is_floating_point():
        return f"has {name} of {str(value.dtype).removeprefix('torch.')}, not of floating-point numbers"
    if value.shape == wanted.shape:
        return None
    size = (
        " (trained on images or texts of another size)"
        if "position" in name or "pos_embed" in name
        else ""
    )
    return f"has {name} of shape {_shape(value)} where {_shape(wanted)} is expected{size}"


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"
