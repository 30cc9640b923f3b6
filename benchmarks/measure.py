"""Measuring on a machine that others use too: interleaved pairs, medians, CPU seconds, bytes kept
for backward."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import torch
from torch.utils.flop_counter import FlopCounterMode

from diptych.errors import InputError


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


@cache
def peak(dtype: torch.dtype = torch.float32, side: int = 2048) -> float:
    """Floating-point operations a CPU second of a square product of one type: the best of
    several."""
    a, b = (torch.ones(side, side, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * side**3 / min(seconds(lambda: torch.mm(a, b))[0] for _ in range(7))


def roofline(operations: int, cpu_seconds: float, precision: str = "float32") -> float | None:
    """Achieved operations a CPU second over those of the square product; None for int8, as torch
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
