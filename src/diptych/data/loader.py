"""The loader: batches of a plan, the same for any number of worker processes.

A damaged sample is counted under its reason and replaced by another sample, which depends only on
(seed, epoch, position). So a batch keeps its size, and no order depends on workers or ranks.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from diptych.data.batch import Batch
from diptych.data.plan import Plan
from diptych.data.sample import BadSample, Sample, Source
from diptych.data.views import View, collate, look
from diptych.errors import InputError
from diptych.rng import generator

log = logging.getLogger(__name__)

_LOST = re.compile(r"DataLoader worker \(pid.*(killed|exited)", re.DOTALL)
_CAUGHT = "Caught InputError in DataLoader worker process"
_ATTEMPTS = 100
"""Replacements tried for one damaged sample before the loader raises an error."""


@dataclass(frozen=True, slots=True)
class Request:
    """One rank's part of one batch: `indices` are at `position`, `position` + 1, … of the epoch."""

    epoch: int
    position: int
    indices: np.ndarray
    progress: float | None


@dataclass
class Damage:
    """Damaged samples seen so far: key -> reason, each key once."""

    seen: dict[str, str] = field(default_factory=dict)

    @property
    def reasons(self) -> Counter[str]:
        return Counter(self.seen.values())

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())


class _Requests(Sampler[Request]):
    """The requests of the current epoch, replaced each epoch since workers stay alive between
    epochs."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


class _Batches(Dataset):
    """Returns the collated batch of a request; runs in the workers."""

    def __init__(self, source: Source, views: Sequence[View], seed: int):
        self.source = source
        self.views = views
        self.seed = seed
        self.tokenizers = {
            name.removeprefix("texts."): tokenizer
            for view in views
            if (tokenizer := getattr(view, "tokenizer", None)) is not None
            for name in view.gives
            if name.startswith("texts.")
        }

    def __getitem__(self, request: Request) -> tuple[Batch, list[tuple[str, str]]]:
        keys = []
        rows = []
        bad = []
        why = BadSample("")
        taken = set(request.indices.tolist())
        for offset, index in enumerate(request.indices.tolist()):
            position = request.position + offset
            for attempt in range(_ATTEMPTS):
                try:
                    sample: Sample = self.source[index]
                    rows.append(
                        look(
                            sample,
                            self.views,
                            (self.seed, request.epoch, position),
                            request.progress,
                        )
                    )
                    keys.append(sample.key)
                    break
                except BadSample as error:
                    bad.append((self.source.keys()[index], error.reason))
                    why = error
                    index = self._another(request.epoch, position, attempt, taken)
            else:
                raise InputError(
                    f"{self.source.name}: {_ATTEMPTS} samples in a row are damaged (the last, {bad[-1][0]}: {why}); "
                    "run `diptych check` on the data"
                )
        return collate(keys, rows, self.tokenizers), bad

    def _another(self, epoch: int, position: int, attempt: int, taken: set[int]) -> int:
        draws = (
            generator(self.seed, "replace", epoch, position, attempt)
            .integers(len(self.source), size=16)
            .tolist()
        )
        index = next((draw for draw in draws if draw not in taken), draws[0])
        taken.add(index)
        return index


class Loader:
    """Batches of a source for one rank of `ranks`, epoch by epoch, from any step.

    `workers` processes decode ahead; 0 decodes in this process. `steps` is the length of training,
    from which the views' progress is computed; None means evaluation. `damage` collects the samples
    that could not be read.

    Batches of fewer than `least` samples are left out, or where all of them are, those of one sample
    and those of fewer samples than ranks. `told` are the names of the sources that a warning of it was
    given for, by this loader or others.
    """

    def __init__(
        self,
        source: Source,
        views: Sequence[View],
        plan: Plan,
        batch_size: int,
        *,
        seed: int = 0,
        workers: int = 0,
        steps: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        pin: bool = False,
        least: int = 1,
        told: set[str] | None = None,
    ):
        if batch_size < ranks:
            raise InputError(
                f"batch size {batch_size} is smaller than the {ranks} ranks; raise --batch-size"
            )
        self.source = source
        self.plan = plan
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.steps = steps
        self.least = least
        self.damage = Damage()
        self.told = set() if told is None else told
        self._planned: tuple[int, list[np.ndarray]] | None = None
        self._requests = _Requests()
        self._loader = DataLoader(
            _Batches(source, views, seed),
            sampler=self._requests,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=2 if workers else None,
            pin_memory=pin,
        )

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The global batches of an epoch, as index arrays. Raises InputError if there is none."""
        if self._planned is None or self._planned[0] != epoch:
            planned = self._checked(self.plan(self.source, self.seed, epoch, self.batch_size))
            if not planned:
                raise InputError(
                    f"{self.source.name} with {len(self.source)} samples gives no batch of "
                    f"{self.batch_size}; lower --batch-size, or name more data"
                )
            self._planned = (epoch, self._large(planned))
        return self._planned[1]

    def _checked(self, planned: Iterable[Any]) -> list[np.ndarray]:
        """Return the batches of a plan as arrays. Raises InputError for what names no samples."""
        found = [np.asarray(rows) for rows in planned]
        for rows in found:
            whole = rows.ndim == 1 and rows.dtype.kind in "iu"
            if not whole or (rows.size and not 0 <= rows.min() <= rows.max() < len(self.source)):
                shown = f"{rows.dtype} of shape {rows.shape}"
                if whole:
                    shown = f"rows {rows.min()} to {rows.max()}"
                raise InputError(
                    f"the plan {type(self.plan).__name__} gives a batch of {shown} for the {len(self.source)} samples "
                    f"of {self.source.name}; return a list of batches, each an array (B,) of row numbers"
                )
        return found

    def _large(self, planned: list[np.ndarray]) -> list[np.ndarray]:
        """Leave out batches that are too small, and say once how many samples these are."""
        needed = self.least
        if all(len(rows) < needed for rows in planned):
            needed = max(self.ranks, min(2, self.least)) if self.least > 1 else 1
        kept = [rows for rows in planned if len(rows) >= needed]
        if not kept:
            raise InputError(
                f"the largest batch that {type(self.plan).__name__} gives of {self.source.name} has "
                f"{max(map(len, planned))} samples, and a step needs {needed}; name more data, or another plan (such "
                "as another label to keep samples apart)"
            )
        lost = sum(map(len, planned)) - sum(map(len, kept))
        if lost and self.source.name not in self.told and self.rank == 0:
            self.told.add(self.source.name)
            log.warning(
                "%s: an epoch leaves out %d samples, in batches of fewer than %d",
                self.source.name,
                lost,
                needed,
            )
        return kept

    def epoch(self, epoch: int, start: int = 0, step: int = 0) -> Iterator[Batch]:
        """This rank's part of an epoch's batches from batch `start`, which is step `step` of
        training."""
        requests = []
        position = 0
        for number, indices in enumerate(self.batches(epoch)):
            parts = np.array_split(indices, self.ranks)
            offset = sum(len(part) for part in parts[: self.rank])
            progress = None if self.steps is None else (step + number - start) / self.steps
            requests.append(Request(epoch, position + offset, parts[self.rank], progress))
            position += len(indices)
        if start >= len(requests):
            raise InputError(
                f"{self.source.name} gives {len(requests)} batches an epoch, and number {start + 1} is "
                "asked for; the data are not those that the run began with"
            )
        self._requests.requests = requests[start:]
        with worker_errors(self.source.name):
            for batch, bad in self._loader:
                self.damage.seen.update(bad)
                yield batch

    def endless(self, start: int) -> Iterator[Batch]:
        """Batches of epoch after epoch, from step `start` of training."""
        epoch = 0
        step = start
        while start >= (length := len(self.batches(epoch))):
            start = start - length
            epoch = epoch + 1
        while True:
            yield from self.epoch(epoch, start, step)
            epoch, start, step = epoch + 1, 0, step + len(self.batches(epoch)) - start


@contextmanager
def worker_errors(name: str) -> Iterator[None]:
    """Context that turns torch's RuntimeError about a killed worker process, wherever it surfaces,
    into an InputError, and removes the traceback that torch writes into an InputError of a worker."""
    try:
        yield
    except InputError as error:
        if not str(error).startswith(_CAUGHT):
            raise
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None
    except RuntimeError as error:
        if _LOST.match(str(error)) is None:
            raise
        raise InputError(
            f"a worker process that read {name} was killed, most likely for want of memory; lower --workers or "
            "--batch-size, and go on from the last checkpoint with --resume"
        ) from error


def require(source: Source, names: Sequence[str], who: str) -> None:
    """Raise InputError if a source lacks a field that `who` reads; `texts.*` means texts of any
    role."""
    schema = source.schema()
    for name in names:
        kind, _, rest = name.partition(".")
        if name not in schema and not (
            rest == "*" and any(have.startswith(f"{kind}.") for have in schema)
        ):
            others = [have.removeprefix("labels.") for have in schema if have.startswith("labels.")]
            remedy = "name a source, column or role that has it"
            if kind == "labels" and others:
                remedy = f"give the method's option another of its labels: {', '.join(others)}"
            raise InputError(
                f"{source.name} has no {name}, which {who} needs; it has {', '.join(schema) or 'nothing'}; {remedy}"
            )
