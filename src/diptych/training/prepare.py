"""The argument of a stage's `prepare`: the method, its sources, and the operations that a method
may run before it trains."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from diptych import collectives
from diptych.data.batch import Batch
from diptych.data.columns import Column, MappedColumn, WithColumns, write_rows
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Source
from diptych.data.views import View
from diptych.dtypes import at_least_float32
from diptych.errors import InputError, brief
from diptych.files import write_atomic
from diptych.methods.base import At, Method

log = logging.getLogger(__name__)


class Run:
    """The argument of `prepare(run)`. All ranks call its methods alike; a method never asks for its
    rank.

    `columns[stream]` holds the columns that later stages read as fields of that stream's samples.
    `at` is the position in training, `device` the method's device, `batch_size` the number of samples in
    the stage's batches, and `precision` that of its steps. `note(step, steps, loss, **logged)` logs one
    iteration of a search like a training step. `out` is the run's folder, or None.
    """

    def __init__(
        self,
        method: Method,
        sources: Mapping[str, Source],
        at: At,
        device: torch.device,
        workers: int = 0,
        note: Callable[..., None] = lambda *position, **logged: None,
        out: Path | None = None,
        batch_size: int = 1,
        precision: str = "float32",
    ):
        self.method = method
        self.sources = sources
        self.at = at
        self.device = device
        self.workers = workers
        self.note = note
        self.out = out
        self.batch_size = batch_size
        self.precision = precision
        self.columns: dict[str, dict[str, Column]] = {}

    @torch.no_grad()
    def map(
        self,
        fn: Callable[[Batch], Mapping[str, Tensor]],
        views: Sequence[View],
        source: Source,
        *,
        batch_size: int = 256,
        mapped: str | None = None,
    ) -> dict[str, Any]:
        """Return `fn(batch)` over all samples of a source, without augmentation or gradient,
        distributed over the ranks.

        Rows are in the source's order on every rank. Those of the result `mapped` are written to a file
        of the run and read from there (`MappedColumn`), as all of them may not fit into the memory; of
        a run without a folder they are arrays, as the others are. A damaged sample is an error, since
        a column needs all samples.
        """
        rows: dict[str, list[np.ndarray]] = {}
        batches = self._batches(fn, views, source, batch_size)
        found: dict[str, Any] = {}

        def keep(batch: dict[str, np.ndarray]) -> None:
            for name, value in batch.items():
                rows.setdefault(name, []).append(value)

        if mapped is not None and self.out is not None:

            def to_write(batch: dict[str, np.ndarray]) -> np.ndarray:
                """What is written of a batch; the rest is kept."""
                part = batch.pop(mapped)
                keep(batch)
                return part

            found[mapped] = self._write_rows(mapped, len(source), map(to_write, batches))
        for batch in batches:
            keep(batch)
        return {**{name: np.concatenate(values) for name, values in rows.items()}, **found}

    def _write_rows(self, name: str, count: int, parts: Iterator[np.ndarray]) -> MappedColumn:
        """Write the rows of a result, on the first rank, and return them as a column."""
        assert self.out is not None
        path = self.out / "state" / f"{self.at.stage}-{name}.npy"
        if collectives.rank() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda to: write_rows(to, count, parts))
        else:
            for _ in parts:
                pass
        collectives.barrier()
        return MappedColumn(path)

    def _batches(
        self,
        fn: Callable[[Batch], Mapping[str, Tensor]],
        views: Sequence[View],
        source: Source,
        batch_size: int,
    ) -> Iterator[dict[str, np.ndarray]]:
        """The results of `map`, batch by batch."""
        ranks = collectives.world_size()
        loader = Loader(
            source,
            views,
            InOrder(),
            max(batch_size, ranks),
            seed=self.at.seed,
            workers=self.workers,
            rank=collectives.rank(),
            ranks=ranks,
        )
        training = self.method.training
        self.method.eval()
        for batch in loader.epoch(0):
            found = fn(batch.to(self.device)).items()
            yield {name: collectives.gather(value.detach()).cpu().numpy() for name, value in found}
        self.method.train(training)
        if loader.damage.seen:
            key, reason = next(iter(loader.damage.seen.items()))
            raise InputError(
                f"{source.name}: {key} is damaged ({reason}) and would leave a gap in a column; "
                "remove it from the data (`diptych check` lists all)"
            )

    def store(self, stream: str, columns: Mapping[str, Column]) -> None:
        """Store `columns` of a stream's samples for later stages, row i for sample i. Raises InputError
        for a column that is no array of numbers, tensor or list of them."""
        for name, values in columns.items():
            found = _column(values, f"the column {name!r} of the stream {stream!r}")
            self.columns.setdefault(stream, {})[name] = found

    def write(self, name: str, fn: Callable[[Path], Any]) -> None:
        """Write the file `name` into the run's folder: rank 0 calls `fn(path)`, which must write to
        that path.

        `path` is a temporary file that replaces `name` when `fn` returns, so no file is
        half-written. If the run has no folder, nothing is written. Raises InputError if the disk is
        full.
        """
        if self.out is not None and collectives.rank() == 0:
            write_atomic(self.out / name, fn)

    def warn(self, message: str) -> None:
        """Log a warning, once for all ranks."""
        if collectives.rank() == 0:
            log.warning("%s", message)


def _column(values: Any, whose: str) -> Column:
    if isinstance(values, MappedColumn):
        return values
    if isinstance(values, Tensor):
        values = at_least_float32(values).detach().cpu().numpy()
    try:
        found = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{whose}: {brief(error)}; give an array with a row a sample") from None
    if found.dtype.kind not in "biuf" or not found.ndim:
        raise InputError(
            f"{whose} is a {type(values).__name__} of {found.dtype}; give an array of numbers with a row a sample"
        )
    return found


def save_columns(path: Path, columns: Mapping[str, Mapping[str, Column]]) -> None:
    """Save the columns of a stage, so that a resumed run reads them instead of computing them
    again; of those in files of the same folder, their names."""
    flat = {
        f"{stream}/{name}": value
        for stream, named in columns.items()
        for name, value in named.items()
    }
    arrays = {
        full: np.ascontiguousarray(value)
        for full, value in flat.items()
        if not isinstance(value, MappedColumn)
    }
    files = {
        full: value.path.name for full, value in flat.items() if isinstance(value, MappedColumn)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda to: save_file(arrays, to, {"files": json.dumps(files)}))


def load_columns(path: Path) -> dict[str, dict[str, Column]]:
    """The inverse of `save_columns`."""
    columns: dict[str, dict[str, Column]] = {}
    try:
        with safe_open(path, "numpy") as held:
            files = json.loads((held.metadata() or {}).get("files", "{}"))
        found: dict[str, Column] = {**load_file(path)}
        found |= {full: MappedColumn(path.parent / name) for full, name in files.items()}
        for full, value in found.items():
            stream, name = full.split("/", 1)
            columns.setdefault(stream, {})[name] = value
    except FileNotFoundError as error:
        missing = Path(error.filename or path).name
        raise InputError(
            f"{path} is damaged (it lacks {missing}); begin a new run with another --out"
        ) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{path} is damaged ({brief(error)}); begin a new run with another --out"
        ) from None
    return columns


def with_columns(
    sources: Mapping[str, Source], columns: Mapping[str, Mapping[str, Any]]
) -> dict[str, Source]:
    """Return each source with its stream's columns, if it has any."""
    return {
        name: WithColumns(source, columns[name]) if columns.get(name) else source
        for name, source in sources.items()
    }
