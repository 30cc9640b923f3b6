"""Linear layers that are contiguous in memory and run as one matrix product in inference.

The layers stay plain `nn.Linear` modules, each with its own weight under its own name in state
dicts, so that adapters, quantisation and export still work. Only their storage is shared: the
joined weight is a view, not a copy.

Dimensions: n layers, … samples and tokens, D width, K outputs of all layers together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.towers.nn.product import is_plain, linear, run


def join(layers: Sequence[nn.Module]) -> None:
    """Move the weights of layers with the same input into one storage, and their biases into
    another.

    Values do not change.

    Layers that are not a plain `nn.Linear`, or that differ in input, type or device, are left
    unchanged.

    >>> q, k = nn.Linear(4, 2), nn.Linear(4, 3)
    >>> join([q, k])
    >>> q.weight.untyped_storage().data_ptr() == k.weight.untyped_storage().data_ptr()
    True
    """
    if (
        not all(is_plain(layer) for layer in layers)
        or len({layer.in_features for layer in layers}) > 1
    ):
        return
    for parts in _parts(layers):
        if len({(part.dtype, part.device) for part in parts}) > 1 or _view(parts) is not None:
            continue
        whole = torch.cat([part.detach() for part in parts])
        for part, piece in zip(parts, whole.split([len(part) for part in parts]), strict=True):
            part.data = piece


def project(layers: Sequence[nn.Module], x: Tensor) -> Sequence[Tensor]:
    """[layer(x) for layer in layers] for x (…, D), as one product (…, K) where the result is the
    same.

    One product is used if no gradient is recorded, each layer is a plain `nn.Linear` without hooks,
    and their weights are contiguous in one storage. A move to another device or type ends that;
    then each layer is called separately until `join` is called again.

    >>> layers = [nn.Linear(4, 2), nn.Linear(4, 3)]
    >>> join(layers)
    >>> with torch.no_grad():
    ...     [tuple(y.shape) for y in project(layers, torch.ones(1, 4))]
    [(1, 2), (1, 3)]
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if not torch.is_grad_enabled() and not traced and all(is_plain(layer) for layer in layers):
        views = [_view(parts) for parts in _parts(layers)]
        if len(views) in (1, 2) and all(view is not None for view in views):
            return linear(x, *views).split([layer.out_features for layer in layers], dim=-1)  # type: ignore[arg-type]
    return [run(layer, x) for layer in layers]


def _parts(layers: Sequence[Any]) -> list[list[Tensor]]:
    """The weights, and the biases if there are any.

    Three lists if only some layers have a bias, which `project` does not fuse.
    """
    biases = [layer.bias for layer in layers if layer.bias is not None]
    mixed = len(biases) not in (0, len(layers))
    return [
        [layer.weight for layer in layers],
        *([biases] if biases else []),
        *([[]] if mixed else []),
    ]


def _view(parts: Sequence[Tensor]) -> Tensor | None:
    """One tensor over all parts if they are contiguous and in order in one storage, else None."""
    if not parts:
        return None
    first = parts[0]
    place = parts[0].storage_offset()
    storage = first.untyped_storage().data_ptr()
    for part in parts:
        if (
            part.untyped_storage().data_ptr() != storage
            or part.storage_offset() != place
            or part.dtype != first.dtype
            or not part.is_contiguous()
        ):
            return None
        place += part.numel()
    return first.as_strided((sum(len(part) for part in parts), *first.shape[1:]), first.stride())
