"""The product of a linear layer in float32 on a CPU, forward and backward, by the faster of two
libraries.

    y = x W^T + b,    dx = dy W,    dW = dy^T x,    db = sum dy

torch multiplies float32 matrices by MKL, which does not use all of some processors. oneDNN, which
torch contains too, computes the same product: entries differ by rounding alone. A probe compares
the two once on each machine, by a step of training (y, dx and dW) at a narrow and a wide layer, and
keeps the answer in the user's cache, so that later processes, and those that continue a run, choose
the same one. Processes that probe at the same time agree unless the two differ by just about
`MARGIN`.

Dimensions: … samples and tokens, N of them in all, D width, K outputs.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

from diptych.data.sources import cache as user_cache

MARGIN = 1.25
"""oneDNN is used where it is faster by this factor: below it a probe could find one or the
other."""
SHAPES = ((2048, 160, 640), (1024, 512, 512))  # N, D and K of the probe, 15 ms a step each
ROUNDS = 3
_VERSION = "2"  # of the probe; increase it when its inputs or criterion change


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b for x (…, D), weight (K, D) and bias (K,), as `torch.nn.functional.linear`.

    Other types and devices, autocast, traced models and dispatch modes always take torch's product.

    >>> linear(torch.ones(2, 3), torch.ones(4, 3)).tolist()
    [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """
    if not (_permitted(x, weight, bias) and onednn_is_faster()):
        return F.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    y = _OneDNN.apply(flat, weight, bias)
    return y.view(*x.shape[:-1], len(weight))  # type: ignore[union-attr]


def run(layer: nn.Module, x: Tensor) -> Tensor:
    """Return layer(x); for a plain `nn.Linear` by `linear`."""
    if is_plain(layer):
        return linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]
    return layer(x)


def is_plain(layer: nn.Module) -> bool:
    """Whether calling the layer is its matrix product and nothing else: no subclass, hook or
    wrapped forward."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and not layer._backward_hooks
        and not layer._backward_pre_hooks
        and "forward" not in layer.__dict__
    )


@cache
def onednn_is_faster() -> bool:
    """Whether a probe on this machine found oneDNN faster than torch's product by `MARGIN`."""
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False  # a torch that was built without it
    place = user_cache.named("product", [_VERSION, *_machine()], ".json")
    known = user_cache.read(place, _read)
    if known is not None:
        return known
    found = _probe(time.perf_counter) >= MARGIN
    user_cache.write(place, _writer(found))
    return found


def _permitted(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False
    if (
        _get_current_dispatch_mode() is not None
    ):  # such as a count of FLOPs, which knows torch's own
        return False
    tensors = (x, weight) if bias is None else (x, weight, bias)
    return (
        all(each.dtype == torch.float32 and each.device.type == "cpu" for each in tensors)
        and all(type(each) in (Tensor, nn.Parameter) for each in tensors)
        and x.numel() > 0
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
    )


class _OneDNN(torch.autograd.Function):
    """The product of x (N, D) with weight (K, D) and bias (K,), by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(dy, weight.t()) if needs_x else None,
            _product(dy.t(), x.t()) if needs_weight else None,
            dy.sum(0) if needs_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _probe(clock: Callable[[], float]) -> float:
    """Return the time of torch's products over that of oneDNN's: the median of pairs, in turns, at the
    layer where it is the least. Gradients of weights and narrow layers gain less than wide ones."""

    def seconds(product: Callable[[Tensor, Tensor], Tensor], N: int, D: int, K: int) -> float:
        x = torch.ones(N, D)
        weight = torch.ones(K, D)
        dy = torch.ones(N, K)
        start = clock()
        product(x, weight)
        product(dy, weight.t())
        product(dy.t(), x.t())
        return clock() - start

    def ratio(shape: tuple[int, int, int]) -> float:
        ratios = [
            seconds(F.linear, *shape) / max(seconds(_product, *shape), 1e-9)
            for _ in range(ROUNDS + 1)
        ]
        return statistics.median(ratios[1:])  # the first call of each sets itself up

    with torch.no_grad():
        return min(map(ratio, SHAPES))


def _machine() -> list[str]:
    """What the answer depends on: the processor, torch and the number of threads."""
    return [_processor(), torch.__version__, str(torch.get_num_threads())]


def _processor() -> str:
    """The processor's name, family and model where Linux gives them."""
    wanted = ("vendor_id", "cpu family", "model", "model name")
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in lines)
    return "; ".join(value.strip() for name, _, value in pairs if name.strip() in wanted)


def _read(place: Path) -> bool:
    return bool(json.loads(place.read_text("utf-8"))["onednn"])


def _writer(found: bool) -> Callable[[BinaryIO], None]:
    content = json.dumps({"onednn": found}).encode()

    def fill(file: BinaryIO) -> None:
        file.write(content)

    return fill
