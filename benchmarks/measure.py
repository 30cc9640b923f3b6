"""Measuring on a machine that others use too: interleaved pairs, medians, CPU seconds, the fastest
matrix product of any library, bytes kept for backward."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diptych.errors import InputError

SIDE = 2048
ROUNDS = 7
SLOW = 1.25  # times torch's rate: where another library reaches it, torch's product is slow
_ERROR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # relative to the exact product
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}

Product = Callable[[], Tensor]

measured: dict[str, dict[str, float]] = {}
"""By type and library: operations a CPU second, of all that `products` has measured."""


def interleaved(
    ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 7
) -> dict[str, Any]:
    """CPU seconds of both, run in turns after one warm-up each: all pairs, their medians, and the
    ratios of the pairs.

    CPU seconds are those of this process with all its threads and of the worker processes that
    ended meanwhile. `wall_ratio` is the median ratio of seconds by the clock, which says more where
    the machine is idle.
    """
    ours(), theirs()
    return summary([(seconds(ours), seconds(theirs)) for _ in range(pairs)])


def summary(pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> dict[str, Any]:
    """The numbers of a row from pairs of (CPU, wall) seconds, ours and theirs.

    >>> summary([((1.0, 1.0), (2.0, 4.0)), ((3.0, 1.0), (4.0, 4.0)), ((1.0, 2.0), (1.0, 2.0))])["ratio"]
    0.75
    """
    ratios = [a / b for (a, _), (b, _) in pairs]
    return {
        "ours": statistics.median(a for (a, _), _ in pairs),
        "theirs": statistics.median(b for _, (b, _) in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "wall_ratio": statistics.median(a / b for (_, a), (_, b) in pairs),
        "pairs": [[a, b] for (a, _), (b, _) in pairs],
    }


def fastest(ways: Mapping[str, Callable[[], Any]], rounds: int = 3) -> str:
    """The name of the call that takes the least CPU seconds, the best of some rounds in turns after
    one warm-up each."""
    for way in ways.values():
        way()
    times = [{name: seconds(way)[0] for name, way in ways.items()} for _ in range(rounds)]
    return min(ways, key=lambda name: min(each[name] for each in times))


def judged(
    what: str,
    unit: str,
    numbers: Mapping[str, Any],
    bar: float | None,
    roofline: float | None = None,
) -> dict:
    """A line of the table: `ratio`, ours over theirs, must not be above `bar`; None only tells."""
    met = None if bar is None else numbers["ratio"] <= bar
    line = {"what": what, "unit": unit, **numbers, "bar": bar, "met": met}
    return line if roofline is None else {**line, "roofline": roofline}


def against(ours: float, theirs: float) -> dict[str, float]:
    """The numbers of a row that does not vary from run to run."""
    return {"ours": ours, "theirs": theirs, "ratio": ours / theirs}


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds of a call."""
    wall = time.perf_counter()
    cpu = _cpu()
    call()
    return _cpu() - cpu, time.perf_counter() - wall


def _cpu() -> float:
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of the products and attentions of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def products(dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Operations a CPU second of each library's product, measured once in a process."""
    name = str(dtype).removeprefix("torch.")
    if name not in measured:
        measured[name] = rates(dtype, SIDE)
    return measured[name]


def torch_is_slow() -> bool:
    """Whether another library's product in float32 is at least `SLOW` times as fast as torch's."""
    found = products()
    return max(found.values()) >= SLOW * found["torch"]


def rates(dtype: torch.dtype, side: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Operations a CPU second of a product of one size by each library: the best of several
    rounds."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=draw).to(dtype) for _ in range(2))
    exact = a.double() @ b.double()
    with torch.inference_mode():
        ways = libraries(a, b)
        for name, way in ways.items():
            error = float((way().double() - exact).norm() / exact.norm())
            assert error <= _ERROR[dtype], (name, dtype, error)
        times = [{name: seconds(way)[0] for name, way in ways.items()} for _ in range(rounds)]
    return {name: 2 * side**3 / min(each[name] for each in times) for name in ways}


def libraries(a: Tensor, b: Tensor) -> dict[str, Product]:
    """The product of two matrices by each library that is here."""
    ways: dict[str, Product] = {"torch": lambda: torch.mm(a, b)}
    if _onednn(a.dtype):
        ops: Any = torch.ops.mkldnn
        plain = b.t().contiguous()
        packed = ops._reorder_linear_weight(plain, len(a))
        ways["oneDNN"] = lambda: ops._linear_pointwise(a, plain, None, "none", [], "")
        ways["oneDNN, packed"] = lambda: ops._linear_pointwise(a, packed, None, "none", [], "")
    if find_spec("openvino") is not None:
        ways["OpenVINO"] = _openvino(a, b)
    return ways


def _onednn(dtype: torch.dtype) -> bool:
    """Whether torch's oneDNN multiplies this type here."""
    ops: Any = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(ops._is_mkldnn_bf16_supported())


def _openvino(a: Tensor, b: Tensor) -> Product:
    import openvino
    from openvino import opset13

    rows = opset13.parameter(list(a.shape), np.float32)
    graph = openvino.Model(
        [opset13.matmul(rows, opset13.constant(b.float().numpy()), False, False)], [rows]
    )
    options = {
        "INFERENCE_PRECISION_HINT": _HINTS[a.dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
    given = a.float().numpy()
    return lambda: torch.from_numpy(request.infer([given], share_inputs=True)[0])


def peak(dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a CPU second of the fastest square product of one type that any
    library here reaches."""
    return max(products(dtype).values())


def roofline(operations: int, cpu_seconds: float, precision: str = "float32") -> float | None:
    """Achieved operations a CPU second over those of the fastest product; None for int8, as torch
    has no public product of that type."""
    return (
        None if precision == "int8" else operations / cpu_seconds / peak(getattr(torch, precision))
    )


def in_child(
    work: Callable[..., Any], *args: Any, environment: Mapping[str, str] | None = None
) -> Any:
    """What `work` returns in a fresh process, with as many threads as here; its peak memory is its
    own."""
    with (
        patch.dict(os.environ, environment or {}),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(_with_threads, torch.get_num_threads(), work, *args).result()


def _with_threads(threads: int, work: Callable[..., Any], *args: Any) -> Any:
    torch.set_num_threads(threads)
    return work(*args)


def held() -> int:
    """The memory that this process holds now, in bytes."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most memory that this process has held; that of getrusage would begin with its
    parent's."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let `peak_bytes` begin anew at what is held now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(name: str) -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError as error:
        raise InputError(
            "the memory of a process is read from /proc, which this system lacks"
        ) from error
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def saved_bytes(forward: Callable[[], torch.Tensor]) -> int:
    """Bytes of distinct memory that a forward pass keeps for its backward pass."""
    alive: WeakSet[_Kept] = WeakSet()

    def pack(tensor: torch.Tensor) -> _Kept:
        kept = _Kept(tensor)
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        result = forward()
    storages = [kept.tensor.untyped_storage() for kept in alive]
    del result  # until here its graph held what it needs
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class _Kept:
    """A tensor that a graph holds; graphs that forward itself goes through and drops hold none in
    the end."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor


def circumstances(*packages: str) -> dict[str, Any]:
    """What a number depends on: versions, processor, threads, load."""
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("diptych", "torch", "numpy", *packages)},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next(
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
