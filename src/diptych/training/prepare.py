"""The argument of a stage's `prepare`: the method, its sources, and the operations that a method
may run before it trains."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from diptych import collectives
from diptych.data.batch import Batch
from diptych.data.columns import WithColumns
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Source
from diptych.data.views import View
from diptych.errors import InputError, brief
from diptych.files import write_atomic
from diptych.methods.base import At, Method

log = logging.getLogger(__name__)


class Run:
    """The argument of `prepare(run)`. All ranks call its methods alike; a method never asks for its
    rank.

    `columns[stream]` holds the columns that later stages read as fields of that stream's samples.
    `at` is the position in training, `device` the method's device, and `batch_size` the number of samples
    in the stage's batches. `note(step, steps, loss,
    **logged)` logs one iteration of a search like a training step. `out` is the run's folder, or
    None.
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
    ):
        self.method = method
        self.sources = sources
        self.at = at
        self.device = device
        self.workers = workers
        self.note = note
        self.out = out
        self.batch_size = batch_size
        self.columns: dict[str, dict[str, np.ndarray]] = {}

    @torch.no_grad()
    def map(
        self,
        fn: Callable[[Batch], Mapping[str, Tensor]],
        views: Sequence[View],
        source: Source,
        *,
        batch_size: int = 256,
    ) -> dict[str, np.ndarray]:
        """Return `fn(batch)` over all samples of a source, without augmentation or gradient,
        distributed over the ranks.

        Rows are in the source's order on every rank. A damaged sample is an error, since a column
        needs all samples.
        """
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
        rows: dict[str, list[Tensor]] = {}
        for batch in loader.epoch(0):
            for name, value in fn(batch.to(self.device)).items():
                rows.setdefault(name, []).append(collectives.gather(value.detach()).cpu())
        self.method.train(training)
        if loader.damage.seen:
            key, reason = next(iter(loader.damage.seen.items()))
            raise InputError(
                f"{source.name}: {key} is damaged ({reason}) and would leave a gap in a column; "
                "remove it from the data (`diptych check` lists all)"
            )
        return {name: torch.cat(values).numpy() for name, values in rows.items()}

    def store(self, stream: str, columns: Mapping[str, np.ndarray]) -> None:
        """Store `columns` of a stream's samples for later stages, row i for sample i."""
        self.columns.setdefault(stream, {}).update(columns)

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


def save_columns(path: Path, columns: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Save the columns of a stage, so that a resumed run reads them instead of computing them
    again."""
    flat = {
        f"{stream}/{name}": np.ascontiguousarray(value)
        for stream, named in columns.items()
        for name, value in named.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: save_file(flat, temporary))


def load_columns(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The inverse of `save_columns`."""
    columns: dict[str, dict[str, np.ndarray]] = {}
    try:
        for full, value in load_file(path).items():
            stream, name = full.split("/", 1)
            columns.setdefault(stream, {})[name] = value
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
