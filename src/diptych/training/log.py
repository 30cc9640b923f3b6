"""The log of a run: one JSON line for each step in metrics.jsonl, and a progress line on the
terminal."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.training.tracking import Tracker

RESERVED = frozenset(
    {
        "stage",
        "done",
        "epoch",
        "step",
        "loss",
        "samples",
        "lr",
        "grad_norm",
        "skipped",
        "spike",
        "seconds",
        "event",
    }
)
"""The names in a line of the log that are the engine's."""


def check_logged(logged: Any, whose: str) -> None:
    """Raise InputError for values to log that are no mapping of other names to numbers."""
    if not isinstance(logged, Mapping):
        raise InputError(
            f"{whose} logs a {type(logged).__name__}; give a mapping of names to numbers"
        )
    for name, value in logged.items():
        if name in RESERVED:
            raise InputError(
                f"{whose} logs {name!r}, a name of the engine's own log; give it another name, such as own/{name}"
            )
        if isinstance(value, Tensor) and value.numel() != 1:
            raise InputError(
                f"{whose} logs {name!r} of shape {tuple(value.shape)}; log a number, such as its mean"
            )
        if not isinstance(value, Tensor | int | float | str | None):
            raise InputError(
                f"{whose} logs {name!r}, a {type(value).__name__}; log a number, such as float(…)"
            )


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and infinities as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Log:
    """Appends to `path` and shows progress on stderr; on a rank other than 0, or with `quiet`,
    shows nothing.

    Times are under the key "seconds" only, so that two runs of one seed differ in nothing else.
    Lines also go to `tracker`, if there is one.
    """

    def __init__(self, path: Path | None, quiet: bool = False):
        self.path = path
        self.quiet = quiet
        self.tracker: Tracker | None = None
        self._start = self._shown = time.perf_counter()
        self._file = None
        self._progress: Progress | None = None
        self._task: Any = None

    def open(self, keep_before: int | None) -> None:
        """Start the file, or keep the lines before step `keep_before` (a killed run may have
        written more)."""
        if self.path is None:
            return
        if self.tracker is not None:
            self.tracker.open(keep_before)
        if keep_before is None:
            self.path.unlink(missing_ok=True)
        elif self.path.exists():
            kept = [
                line for line in self.path.read_bytes().splitlines() if _done(line) < keep_before
            ]
            write_atomic(
                self.path, lambda path: path.write_bytes(b"".join(line + b"\n" for line in kept))
            )
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Append one line. `done` counts the steps of all stages."""
        if self._file is not None:
            values = fetched(values)
            values["seconds"] = round(time.perf_counter() - self._start, 3)
            self._file.write(
                json.dumps({key: plain(value) for key, value in values.items()}) + "\n"
            )
            self._file.flush()
            if self.tracker is not None:
                self.tracker.write(values)

    def begin(self, name: str, steps: int, done: int) -> None:
        """Show the progress bar of a stage, unless there is one already."""
        if self.path is None or self.quiet or self._progress is not None:
            return
        self._name = name
        self._steps = steps
        if Console(stderr=True).is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[loss]}"),
                console=Console(stderr=True),
            )
            self._progress.start()
            self._task = self._progress.add_task(name, total=steps, completed=done, loss="")

    def advance(self, step: int, loss: float) -> None:
        """Move the bar after a step, or print a line every ten seconds if stderr is no terminal."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step, loss=f"loss {loss:.3f}")
        elif self.path is not None and not self.quiet and time.perf_counter() - self._shown > 10:
            self._shown = time.perf_counter()
            print(
                f"{self._name}: step {step} of {self._steps}, loss {loss:.3f}",
                file=sys.stderr,
                flush=True,
            )

    def end(self) -> None:
        """Remove the bar at the end of a stage."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def close(self) -> None:
        """Close the bar and the file."""
        self.end()
        if self._file is not None:
            self._file.close()
            self._file = None
            if self.tracker is not None:
                self.tracker.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl; a line that is cut or damaged is left out, and a file that
    is missing has none."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _done(line) < math.inf]


def _done(line: bytes) -> float:
    """Return the step count of a line; inf for a line that is truncated or damaged, so that it is
    dropped."""
    try:
        return float(json.loads(line)["done"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return math.inf


def fetched(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values whose tensors, of one element each, have become Python numbers.

    Each device is read once, since a program that reads a number from a GPU waits for all that it
    asked of it before.

    >>> fetched({"loss": torch.tensor(0.5), "count": torch.tensor(3), "kind": "sum"})
    {'loss': 0.5, 'count': 3, 'kind': 'sum'}
    """
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    found = dict(values)
    for device in {tensor.device for tensor in tensors.values()}:
        there = {name: tensor for name, tensor in tensors.items() if tensor.device == device}
        exact = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
        numbers = torch.stack([x.detach().reshape(()).to(exact) for x in there.values()]).tolist()
        for (name, tensor), number in zip(there.items(), numbers, strict=True):
            found[name] = _as_type(number, tensor.dtype)
    return found


def _as_type(number: float, dtype: torch.dtype) -> float | int | bool:
    if dtype == torch.bool:
        return bool(number)
    return number if dtype.is_floating_point else int(number)
