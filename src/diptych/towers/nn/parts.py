"""Stateful parts of methods (temperature, momentum copy, queue, frozen model), and interpolation of
state dicts.

Dimensions: B samples, Q places of a queue, E embedding.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.errors import InputError, unknown


class Temperature(nn.Module):
    """The learned scale of similarities; calling it returns the multiplier.

    `form` sets what is learned, and the unit of `init` and of the bounds `clamp`. "exp" learns the
    logarithm of the multiplier, and both are multipliers (CLIP: 1 / 0.07, bounds (1, 100)).
    "divisor" learns tau, where the multiplier is 1 / tau, and both are values of tau (ALBEF: 0.07,
    bounds (0.001, 0.5)). "fixed" learns nothing; `init` is the multiplier.

    >>> float(Temperature(0.5, form="divisor")().detach())
    2.0
    """

    def __init__(
        self,
        init: float = 1 / 0.07,
        form: Literal["exp", "divisor", "fixed"] = "exp",
        clamp: tuple[float, float] | None = None,
    ):
        super().__init__()
        if form not in ("exp", "divisor", "fixed"):
            raise unknown("form of temperature", form, ("exp", "divisor", "fixed"))
        if init <= 0 or (clamp is not None and not 0 < clamp[0] <= clamp[1]):
            raise InputError(
                f"a temperature of {init} with bounds {clamp} is not positive; give positive numbers in order"
            )
        self.init = init
        self.form = form
        self.clamp = clamp
        value = torch.tensor(math.log(init) if form == "exp" else float(init))
        if form == "fixed":
            self.register_buffer("value", value, persistent=False)
        else:
            self.value = nn.Parameter(value)

    def forward(self) -> Tensor:
        """The multiplier, a scalar."""
        return {"exp": torch.exp, "divisor": torch.reciprocal, "fixed": torch.clone}[self.form](
            self.value
        )

    @torch.no_grad()
    def clamp_(self) -> None:
        """Clamp the learned value to its bounds; the engine calls this after each optimiser
        step."""
        if self.clamp is not None and self.form != "fixed":
            low, high = (math.log(x) if self.form == "exp" else x for x in self.clamp)
            self.value.clamp_(low, high)

    def config(self) -> dict[str, Any]:
        """Plain values from which `Temperature(**config)` builds the same module."""
        return {
            "init": self.init,
            "form": self.form,
            "clamp": list(self.clamp) if self.clamp else None,
        }


class Momentum(nn.Module):
    """A moving average of a module: p' <- m p' + (1 - m) p. No gradient.

    Call `update()` in `after_step`; frozen parameters are copied unchanged. The weights are part of
    the state dict and so of checkpoints.

    With `buffers` "copied", the buffers are those of the module, and the average is always in
    evaluation mode. With "own" it is in the mode of the method, so that in training its batch norms
    see the batch, and have running statistics of their own.

    >>> online = nn.Linear(1, 1)
    >>> slow = Momentum(online, m=0.9)
    >>> slow.module.weight.requires_grad
    False
    """

    def __init__(
        self, module: nn.Module, m: float = 0.996, buffers: Literal["copied", "own"] = "copied"
    ):
        super().__init__()
        if not 0 <= m <= 1:
            raise InputError(f"momentum m is {m}; it is a share between 0 and 1")
        self.m = m
        self.own_buffers = buffers == "own"
        self.module = copy.deepcopy(module).requires_grad_(False).train(self.own_buffers)
        for parameter in self.module.parameters():
            parameter.frozen = True  # type: ignore[attr-defined]  # also where a stage's patterns match its name
        self._online = (module,)  # a tuple, so that the followed module is not registered twice

    @property
    def online(self) -> nn.Module:
        """The module that is averaged."""
        return self._online[0]

    @torch.no_grad()
    def update(self, m: float | None = None) -> None:
        """Update the average by one step; `m` overrides the momentum, for schedules."""
        m = self.m if m is None else m
        online = self.online
        for slow, fast in zip(self.module.parameters(), online.parameters(), strict=True):
            slow.lerp_(fast, 1.0 if getattr(fast, "frozen", False) else 1 - m)
        if self.own_buffers:
            return
        for slow, fast in zip(self.module.buffers(), online.buffers(), strict=True):
            slow.copy_(fast)

    def train(self, mode: bool = True) -> "Momentum":
        return super().train(mode and self.own_buffers)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def cosine_momentum(start: float, progress: float) -> float:
    """The momentum at a share `progress` of training, which rises from `start` to 1.

        m = 1 - (1 - m_0) (cos(pi t) + 1) / 2

    >>> round(cosine_momentum(0.9, 0.5), 3), cosine_momentum(0.9, 1.0)
    (0.95, 1.0)
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class Queue(nn.Module):
    """The last Q rows that were pushed, first in first out, initialised with random unit vectors of
    `seed`, or with the integer `fill`.

    >>> queue = Queue(4, 2)
    >>> queue.push(torch.ones(2, 2))
    >>> queue.rows[:2].tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    rows: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int, seed: int = 0, fill: int | None = None):
        super().__init__()
        if fill is None:
            drawn = torch.Generator("cpu").manual_seed(seed)
            rows = torch.randn(size, dim, generator=drawn, device="cpu")
            rows = nn.functional.normalize(rows, dim=1)
        else:
            rows = torch.full((size, dim), fill, device="cpu")
        self.register_buffer("rows", rows.to(torch.get_default_device()))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Replace the oldest rows by rows (B, E), wrapping around at the end; of more than Q rows
        the last Q are kept."""
        Q = len(self.rows)
        places = (int(self.position) + torch.arange(len(rows), device=self.rows.device)) % Q
        self.rows[places[-Q:]] = rows[-Q:].to(self.rows)
        self.position.add_(len(rows)).remainder_(Q)


def between(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """The state dict (1 - alpha) · before + alpha · after.

    All floating-point entries are interpolated, running statistics included. The others, such as
    counters and indices, are taken from `after`.

    >>> ends = {"w": torch.tensor([0.0]), "n": torch.tensor(1)}, {"w": torch.tensor([4.0]), "n": torch.tensor(9)}
    >>> between(*ends, alpha=0.25)
    {'w': tensor([1.]), 'n': tensor(9)}
    """
    return {
        name: torch.lerp(before[name].to(value), value, alpha)
        if value.is_floating_point()
        else value
        for name, value in after.items()
    }


class Frozen(nn.Module):
    """A model that is used but not trained: in evaluation mode, not saved, open to gradients of its
    inputs.

    The model is kept outside torch's registry: `parameters()` is empty (no optimiser, no gradient
    exchange, no weight decay) and `state_dict()` holds only its checksum. Loading a checkpoint made
    with another model raises InputError. `name` is where the model came from, such as the spec
    given to `diptych.load`. Moves to another device or precision apply to it too. If `module` is
    None, pass the model to `hold` later, which compares it with the checksum of a checkpoint loaded
    meanwhile.

    >>> frozen = Frozen(nn.Linear(2, 2), "a small layer")
    >>> list(frozen.parameters()), list(frozen.state_dict())
    ([], ['checksum'])
    """

    checksum: Tensor

    def __init__(self, module: nn.Module | None, name: str):
        super().__init__()
        self.name = name
        self._module: tuple[nn.Module, ...] = ()
        self.register_buffer("checksum", torch.zeros(32, dtype=torch.uint8, device="cpu"))
        if module is not None:
            self.hold(module)

    def hold(self, module: nn.Module) -> None:
        """Set the model. Raises InputError if a checkpoint loaded before was made with another."""
        found = checksum(module)
        self._compare(found)
        self._module = (module.requires_grad_(False).eval(),)
        self.checksum = found.to(self.checksum.device)

    @property
    def module(self) -> nn.Module:
        """The model itself, for calls other than forward."""
        return self._module[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def _apply(self, fn: Callable, recurse: bool = True) -> "Frozen":
        for module in self._module:
            module._apply(fn, recurse)  # what `.to()`, `.half()` and the like call
        return super()._apply(fn, recurse)

    def _compare(self, found: Tensor) -> None:
        if self.checksum.any() and not torch.equal(found.cpu(), self.checksum.cpu()):
            raise InputError(
                f"this checkpoint was made with another {self.name!r}; give the frozen model that it was trained with"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state_dict.get(f"{prefix}checksum")
        if found is not None:
            self._compare(found)
        super()._load_from_state_dict(state_dict, prefix, *args)


def checksum(module: nn.Module) -> Tensor:
    """SHA-256 of a state dict's names and values, uint8 (32,); zeros for a module on the meta
    device."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if value.is_meta:
            return torch.zeros(32, dtype=torch.uint8, device="cpu")
        digest.update(name.encode())
        digest.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def freeze(*parts: nn.Module | nn.Parameter | None) -> None:
    """Mark parameters, or all parameters of modules, as frozen: the engine never trains them."""
    for parameter in _parameters(parts):
        parameter.requires_grad_(False).frozen = True  # type: ignore[attr-defined]


def thaw(*parts: nn.Module | nn.Parameter | None) -> None:
    """Make frozen parameters trainable again."""
    for parameter in _parameters(parts):
        parameter.requires_grad_(True).frozen = False  # type: ignore[attr-defined]


def _parameters(parts: Iterable[nn.Module | nn.Parameter | None]) -> Iterator[nn.Parameter]:
    for part in parts:
        if isinstance(part, nn.Parameter):
            yield part
        elif part is not None:
            yield from part.parameters()
