"""Embed a source on the workers of a cluster, part by part (`diptych.embeddings.parts`).

Each worker loads the model once. A part that is finished is kept, whatever happens to the worker or
the cluster; the same command continues with the others. A lock, which all machines respect where
the file system has such locks, gives each part one writer.
"""

import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from diptych.data.probe import Probe
from diptych.data.sample import Source
from diptych.embeddings import parts
from diptych.embeddings.embed import embed_part
from diptych.embeddings.job import Job, make_job
from diptych.embeddings.layout import parquet
from diptych.embeddings.parts import Part
from diptych.embeddings.regions import Regions
from diptych.embeddings.writer import refuse_existing
from diptych.engines import Ray
from diptych.errors import InputError
from diptych.files import Busy
from diptych.methods import store
from diptych.models.model import Progress, TextModel
from diptych.models.pretrained import absolute

PART_SAMPLES = 10_000
"""The number of samples in one part of a large source: minutes of work, of which a lost worker
costs seconds."""

FEWEST = 64
"""The number of parts of a smaller source, if it has as many batches."""

_PATIENCE = 120.0  # seconds that a file server may hold the lock of a machine that is gone


def embed_parts(
    engine: Ray,
    load: Callable[..., TextModel],
    source: str | Source,
    out: str | Path,
    *,
    device: str = "auto",
    batch_size: int = 64,
    exact: bool = False,
    max_bad: float = 0.01,
    columns: Sequence[str] = (),
    regions: Regions | None = None,
    progress: Progress | None = None,
) -> None:
    """Embed all parts of a source that are not in OUT.parts yet; `parts.merge` joins them.

    `load(device=…)` loads the model, here to check the settings, and on each worker; a worker has a
    GPU if `device` is "cuda", or "auto" and the cluster has some. The number of parts depends on
    the source alone, so that the command continues on a cluster of another size. The options are
    those of `embed_source`, and so are the errors; also raises InputError for a node that does not
    read the source or does not find OUT.parts, and as `Ray.spread`.
    """
    out = Path(out).expanduser()
    parquet()
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"device {device!r} is of one machine; on a cluster write cpu, cuda (each worker has a GPU) or auto"
        )
    job = make_job(
        load(device="cpu"),
        source,
        batch_size=batch_size,
        exact=exact,
        max_bad=max_bad,
        columns=columns,
        regions=regions,
    )
    job = replace(job, model=None)  # each worker loads its own
    refuse_existing(out)
    total = len(job.source)
    count = parts.count_of(out) or number_of_parts(total, batch_size)
    first = Part(1, count)
    parts.refuse_others(out, first, job.settings)
    parts.finished(first.folder(out), job.settings)
    left = [
        part
        for part in (Part(number, count) for number in range(1, count + 1))
        if not part.folder(out).is_dir()
    ]
    done = total - sum(len(part.span(total, batch_size)) for part in left)
    if progress:
        progress(done, total)
    with _token(parts.folder_of(out)) as token:
        work = _Worker(job, load, device, out, token, Probe.of(job.source))
        gpus = {"auto": None, "cpu": False, "cuda": True}[device]
        for _, samples in engine.spread(work, left, gpus=gpus):
            done += samples
            if progress:
                progress(done, total)


def loader(
    spec: str | Path, weights: str | Path | None = None, **options: Any
) -> Callable[..., TextModel]:
    """Return what loads a model as `diptych.load`, in any working directory."""
    given = None if weights is None else Path(weights).expanduser().resolve()
    return partial(store.load, absolute(str(spec)), given, **options)


def number_of_parts(samples: int, batch_size: int) -> int:
    """Return into how many parts a source is divided.

    >>> [number_of_parts(samples, 64) for samples in (100, 50_000, 100_000_000)]
    [2, 64, 10000]
    """
    batches = -(-samples // batch_size)
    return min(batches, max(FEWEST, -(-samples // PART_SAMPLES)))


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    """Yield a file in the folder of the parts, by which workers find out that it is this one."""
    token = folder / f".{secrets.token_hex(8)}.token"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror}); name another --out"
        ) from error
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)
        with suppress(OSError):  # it holds parts
            folder.rmdir()


@dataclass
class _Worker:
    """What a worker does with a part; the job has no model, since each worker loads its own."""

    job: Job
    load: Callable[..., TextModel]
    device: str
    out: Path
    token: Path
    probe: Probe | None

    @cached_property
    def own(self) -> Job:
        """The job with the model. Raises InputError if this machine does not have the same files."""
        node = f"the node {socket.gethostname()}"
        if not self.token.is_file():
            raise InputError(
                f"{node} does not find {self.token.parent}; give --out a folder that all nodes share"
            )
        if self.probe is not None:
            self.probe.check(self.job.source)
        model: Any = self.load(device=self.device)
        if model.identity != self.job.settings["model"]:
            raise InputError(f"{node} loads another model; copy the same one to all nodes")
        return replace(self.job, model=model)

    def __call__(self, part: Part) -> int:
        """Embed a part, unless it is there; return the number of its samples."""
        job = self.own
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                embed_part(job, self.out, part, None)
            except Busy:
                if time.monotonic() > end:
                    raise
                time.sleep(1)
            else:
                return len(part.span(len(job.source), job.batch_size))
