"""Tensors without data to run a method on: torch's fake tensors, which have shapes and no memory, and
rules for what would have to know their data.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from diptych.methods.base import Method
from diptych.towers.nn.parts import Frozen


def fake_method(fake: FakeTensorMode, method: Method) -> Method:
    """Replace the parameters and buffers of a method, and of the frozen models in it, by fake ones."""
    made: dict[int, Any] = {}
    for module in modules_of(method):
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = (tensor, fake.from_tensor(tensor))  # kept, so that ids last
                    if getattr(tensor, "frozen", False):
                        made[id(tensor)][1].frozen = True
                held[name] = made[id(tensor)][1]
    return method


def fake_batch(fake: FakeTensorMode, batch: Any) -> Any:
    """Return a batch, or several streams of them, of fake tensors."""
    if isinstance(batch, Mapping):
        return {name: fake_batch(fake, each) for name, each in batch.items()}
    return batch.map(fake.from_tensor)


def modules_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yield all modules, those of frozen models included."""
    for part in module.modules():
        yield part
        if isinstance(part, Frozen) and part._module:
            yield from modules_of(part.module)


@contextmanager
def unmoved() -> Iterator[None]:
    """Within this context a module of fake tensors stays as it is where it is moved (`.to`): torch cannot
    move it, and peft does so with new factors."""
    move = nn.Module.to

    def stay(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if any(isinstance(parameter, FakeTensor) for parameter in module.parameters()):
            return module
        return move(module, *args, **kwargs)

    nn.Module.to = stay  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.to = move  # type: ignore[method-assign]


class RealScalars(TorchFunctionMode):
    """Scalars that a method draws while it is built, such as a seed, are real."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        drawn = function is torch.randint and () in args
        read = function in (Tensor.__int__, Tensor.item) and not isinstance(args[0], FakeTensor)
        if drawn or read:
            with unset_fake_temporarily():
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


class ScalarsAsOne(TorchFunctionMode):
    """Values that an optimiser reads, such as the norm of a parameter, are 1: no size depends on
    them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return 1.0 if function is Tensor.item else function(*args, **(kwargs or {}))


class Fused(TorchFunctionMode):
    """Runs what has to know data as an accelerator would with the most of them.

    - Attention has no dropout, with which processors store its matrix.
    - Rows that a mask selects are all rows: how many there are depends on the data.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
            args = args[:4]
        elif function is Tensor.__getitem__ and _has_mask(args[1]):
            return _all_rows(args[0], args[1])
        elif function is Tensor.__setitem__ and _is_mask(args[1]):
            return _set_all(*args)
        elif function is Tensor.masked_select or function is torch.masked_select:
            return args[0].flatten().clone()
        elif function in (Tensor.nonzero, torch.nonzero):
            return _all_places(args[0], **kwargs)
        return function(*args, **kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


def _has_mask(index: Any) -> bool:
    return any(map(_is_mask, index)) if isinstance(index, tuple) else _is_mask(index)


def _all_rows(tensor: Tensor, index: Any) -> Tensor:
    """Return a copy of `tensor[index]` as if its masks were true."""
    index = index if isinstance(index, tuple) else (index,)
    at = 0
    for each in index:
        if _is_mask(each):
            tensor = tensor.flatten(at, at + each.ndim - 1) if each.ndim > 1 else tensor
    whole = tuple(slice(None) if _is_mask(each) else each for each in index)
    return tensor[whole].clone()


def _set_all(tensor: Tensor, mask: Tensor, value: Any) -> None:
    """Do `tensor[mask] = value` as if the mask were true."""
    if isinstance(value, Tensor) and value.numel() == tensor.numel():
        tensor.copy_(value.reshape(tensor.shape))
    else:
        tensor.masked_fill_(mask.reshape(*mask.shape, *[1] * (tensor.ndim - mask.ndim)), 0)


def _all_places(tensor: Tensor, as_tuple: bool = False) -> Any:
    """Return the places of all values."""
    places = tensor.new_zeros((tensor.numel(), tensor.ndim), dtype=torch.int64)
    return tuple(places.unbind(1)) if as_tuple else places


def flop_counter() -> FlopCounterMode:
    """A counter that knows the attention of processors, too."""
    ops = torch.ops.aten
    own: dict[Any, Any] = {
        ops._scaled_dot_product_flash_attention_for_cpu: _attention,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=own)


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop(query, key, value)


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> int:
    return sdpa_backward_flop(grad, query, key, value)
