"""From other people's names of tensors to ours, by rules, and into a dual encoder without a second
copy in memory."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.errors import InputError
from diptych.towers.dual import DualEncoder

Change = Callable[[Tensor], Sequence[Tensor]]


def same(x: Tensor) -> Sequence[Tensor]:
    """The tensor as it is."""
    return (x,)


def thirds(x: Tensor) -> Sequence[Tensor]:
    """The rows of q, k and v, packed into one matrix."""
    return x.chunk(3)


def halves(x: Tensor) -> Sequence[Tensor]:
    """The rows of k and v, packed into one matrix."""
    return x.chunk(2)


def turned(x: Tensor) -> Sequence[Tensor]:
    """A matrix that its library multiplies from the right."""
    return (x.T,)


def row(x: Tensor) -> Sequence[Tensor]:
    """One vector as a matrix of one row."""
    return (x.reshape(1, -1),)


def rows(x: Tensor) -> Sequence[Tensor]:
    """A matrix with an idle first dimension."""
    return (x[0],)


def scalar(x: Tensor) -> Sequence[Tensor]:
    """One number, whatever its shape."""
    return (x.reshape(()),)


@dataclass(frozen=True)
class Rule:
    """Tensors whose whole name matches `pattern` become `targets`, which may use its named groups;
    none: left out."""

    pattern: str
    targets: tuple[str, ...] = ()
    change: Change = same

    def names(self, name: str) -> list[str] | None:
        """Our names for what becomes of theirs, or None where the rule is not for this name."""
        match = re.fullmatch(self.pattern, name)
        return None if match is None else [match.expand(target) for target in self.targets]

    def apply(self, name: str, value: Tensor) -> dict[str, Tensor] | None:
        """Our names and tensors, or None where the rule is not for this name."""
        names = self.names(name)
        return (
            dict(zip(names, self.change(value), strict=True))
            if names
            else None
            if names is None
            else {}
        )


def under(theirs: str, ours: str, rules: Sequence[Rule]) -> list[Rule]:
    """The rules of a part, for where it lies in the whole: `theirs` is a pattern, `ours` a
    target."""
    return [
        Rule(theirs + rule.pattern, tuple(ours + target for target in rule.targets), rule.change)
        for rule in rules
    ]


def fill(
    config: Mapping[str, Any], state: dict[str, Tensor], rules: Sequence[Rule], where: str
) -> DualEncoder:
    """The dual encoder of a config with the tensors of `state`, float32, in evaluation mode.

    It is built without memory of its own and takes the tensors over; `state` is emptied on the way.
    Raises InputError for tensors that are missing, unknown, of another shape, or not of real
    numbers: `where` is what they came from.
    """
    with torch.device("meta"):
        encoder = DualEncoder.from_config(config)
    wanted = encoder.state_dict()
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
            # A slice keeps the whole alive, and could not be saved beside its siblings.
            found[key] = part.float().contiguous() if len(renamed) == 1 else part.float().clone()
    problems += [f"lacks what becomes our {key}" for key in wanted if key not in found]
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise InputError(
            f"{where}: {problems[0]}{more}; name the model that these weights belong to"
        )
    encoder.load_state_dict(found, assign=True)
    preprocess = encoder.image.preprocess  # what is not in a state dict was left on "meta"
    encoder.image.mean = torch.tensor(preprocess.mean).view(3, 1, 1)
    encoder.image.std = torch.tensor(preprocess.std).view(3, 1, 1)
    return encoder.eval()


def back(
    state: Mapping[str, Tensor], theirs: Mapping[str, Tensor], rules: Sequence[Rule]
) -> dict[str, Tensor]:
    """The inverse of `fill`: our tensors under the names and in the shapes of `theirs`, a foreign
    model's state.

    The same rules are read from right to left. What the rules leave out of `theirs` is left out
    here. Raises KeyError or RuntimeError where `state` is of another architecture: who calls has
    looked at the config before.
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
    """The side of a square given as one number or two; InputError where the two differ."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise InputError(
            f"{where} has images or patches of {size} pixels; only square ones are supported"
        )
    return sides.pop()


def _misfit(name: str, value: Tensor, wanted: Tensor) -> str | None:
    if not value.is_floating_point():
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
