"""Measuring on a machine that others use too: interleaved pairs, medians, CPU seconds, bytes kept for backward."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch


def interleaved(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 7) -> dict[str, float]:
    """Median CPU seconds of both, run in turns after one warm-up each, and the median of their ratios."""
    ours(), theirs()
    seconds = [(_cpu_seconds(ours), _cpu_seconds(theirs)) for _ in range(pairs)]
    return {
        "ours": statistics.median(a for a, _ in seconds),
        "theirs": statistics.median(b for _, b in seconds),
        "ratio": statistics.median(a / b for a, b in seconds),
    }


def _cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def saved_bytes(forward: Callable[[], torch.Tensor]) -> int:
    """Bytes of distinct memory that a forward pass keeps for its backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(kept.values())


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
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
