"""How the contract suite runs a method: batches, one step's gradients, a short training. These are
top-level functions, so that they pickle for other ranks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych import collectives
from diptych.data.batch import Batch
from diptych.data.loader import Loader
from diptych.data.sample import Source
from diptych.methods.base import At, Method, Stage
from diptych.rng import torch_seed
from diptych.testing.subject import Subject
from diptych.training.engine import Engine
from diptych.training.gradcache import strategy
from diptych.training.launch import make_accelerator
from diptych.training.optim import freeze
from diptych.training.options import Options
from diptych.training.prepare import Run, with_columns
from diptych.training.replicated import wrap_ddp
from diptych.training.step import Step

BATCH = 8


@contextmanager
def float64() -> Iterator[None]:
    """Within this context, and in a function that it decorates, modules are built and computed in
    float64, in which the rounding of no processor decides a check."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def batch_of(method: Method, batch: int = BATCH) -> int:
    """Return the size of the batches of a check, `batch` or, for a method that needs more, enough
    for two ranks."""
    least = max((stage.min_batch for stage in method.stages() if stage.optimize), default=1)
    return batch if least <= batch else 2 * least


def halves(batch: Any) -> list[Any]:
    """Return the first and the second half of a batch, or of the batch of each stream."""
    parts = dict(batch) if isinstance(batch, Mapping) else {"": batch}
    cut = [
        {name: each.rows(*bounds(len(each))) for name, each in parts.items()}
        for bounds in (lambda size: (0, size // 2), lambda size: (size // 2, size))
    ]
    return cut if isinstance(batch, Mapping) else [part[""] for part in cut]


def sizes(batch: Any) -> set[int]:
    """Return the number of samples of a batch, or those of the batches of all streams."""
    return {len(each) for each in batch.values()} if isinstance(batch, Mapping) else {len(batch)}


def batches(subject: Subject, method: Method, batch: int | None = None) -> list[tuple[Stage, Any]]:
    """Return this rank's part of one batch for each stage with steps, and for each stream of one
    whose streams take turns. Each stage's `prepare` provides its columns."""
    sources: dict[str, Source] = {**subject.sources(method)}
    method.setup(sources)
    batch = batch_of(method) if batch is None else batch
    found = []
    stages = method.stages()
    for number, stage in enumerate(stages):
        if stage.prepare and any(later.optimize for later in stages[number:]):
            run = Run(method, sources, At(0, 0, 0, 0, stage.name), torch.device("cpu"))
            stage.prepare(run)
            sources = with_columns(sources, run.columns)
        if not stage.optimize:
            continue
        parts: dict[str, Batch] = {}
        for stream in stage.streams:
            loader = Loader(
                method.samples(stage, stream, sources[stream]),
                method.views(stage, stream),
                stage.plan_of(stream),
                stage.batch_size(stream, batch),
                steps=10,
                rank=collectives.rank(),
                ranks=collectives.world_size(),
            )
            parts[stream] = next(iter(loader.epoch(0)))
        if stage.turns:
            found += [(stage, {stream: part}) for stream, part in parts.items()]
        else:
            found.append((stage, parts if len(parts) > 1 else parts[stage.streams[0]]))
    return found


@float64()
def gradients_of(
    subject: Subject, batch: int | None = None, chunk: int | None = None
) -> list[dict[str, Any]]:
    """Return loss and parameter gradients of one step on each of `batches`, averaged over the ranks
    as the engine does."""
    torch.set_num_threads(1)
    method = subject.small()
    found = []
    for stage, part in batches(subject, method, batch):
        freeze(method, stage.lr_scale)
        method.zero_grad(set_to_none=True)
        step = Step(method, "float32")
        model = wrap_ddp(make_accelerator(), step) if chunk is None else step
        losses = strategy(chunk)(model, part, At(0, 10, 0, torch_seed(0) % 1000, stage.name))
        gradients = {
            name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None
        }
        loss = float(losses.total.detach())
        found.append({"stage": stage.name, "loss": loss, "gradients": gradients})
    return found


@float64()
def found_by(subject: Subject) -> dict[str, Tensor]:
    """Return the buffers after a method's first stage, which has no steps."""
    torch.set_num_threads(1)
    method = subject.small()
    sources = subject.sources(method)
    method.setup(sources)
    method.stages()[0].prepare(Run(method, sources, At(0, 0, 0, 0), torch.device("cpu")))  # type: ignore[misc]
    return {name: value.clone() for name, value in method.named_buffers()}


def engine_of(
    subject: Subject,
    method: Method,
    sources: Mapping[str, Source],
    out: Path,
    steps: int,
    *,
    batch: int = BATCH,
    **options: Any,
) -> Engine:
    """Return an engine with the recipe of `small`, and batches of `batch_of`."""
    size = batch_of(method, batch)
    recipe = replace(subject.cls.preset("small").recipe, steps=steps, batch_size=size)
    return Engine(method, recipe, sources, out, Options(quiet=True, **options))


class _Stop(Exception):
    pass


def train(
    subject: Subject, out: Path, steps: int, *, resume: bool = False, stop_after: int | None = None
) -> Method:
    """Return the method after a run of this many steps, or after one that is interrupted
    earlier."""
    method = subject.small()
    save_every = steps if stop_after is None else stop_after
    engine = engine_of(subject, method, subject.sources(method), out, steps, save_every=save_every)
    out.mkdir(exist_ok=True)
    if stop_after is not None:
        original = engine._snapshot

        def stopping(optimizer: torch.optim.Optimizer) -> None:
            original(optimizer)
            if engine.position.done == stop_after:
                raise _Stop

        engine._snapshot = stopping  # type: ignore[method-assign]
    with suppress(_Stop):
        engine.run(resume)
    return method


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}
