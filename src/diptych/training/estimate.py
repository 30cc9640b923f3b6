"""Estimates of the memory and time of a run before it starts, from a probe of a few samples."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from diptych.data.loader import Loader, require
from diptych.data.plan import Fixed
from diptych.data.sample import Source
from diptych.data.tokenizers import build
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.base import At, Method, Recipe, Stage
from diptych.methods.make import NO_TOWER
from diptych.training import gradcache, optim
from diptych.training.config import RunConfig
from diptych.training.prepare import Run, with_columns
from diptych.training.run import build_method, texts_of
from diptych.training.step import Step

_PROBE = 16  # samples: enough to outweigh the fixed cost of a step, few enough for one second
_TEXTS = 20_000  # captions for the probe's vocabulary


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimated cost of a run.

    `state_bytes` is the memory of weights, gradients and optimiser state; `batch_bytes` the memory
    that backward keeps for the samples that are encoded at a time, without the loss. `step_seconds`
    and `epoch_seconds` are measured on this machine, reading included.
    """

    method: str
    preset: str
    batch_size: int
    chunk: int | None
    parameters: int
    state_bytes: int
    batch_bytes: int
    step_seconds: float
    epoch_seconds: float


class TooFew(InputError):
    """There are fewer samples than the smallest batch that a method trains on."""


def estimate(config: RunConfig, sources: Mapping[str, Source]) -> Estimate:
    """Run the first stage's step on a few samples, and scale up to the config's batch size.

    Memory is that of activations kept by autograd; buffers of libraries come on top. Time is the
    better of two steps. With the recipe's `chunk` both are those of gradient caching. Raises
    InputError if the method cannot be chunked, and TooFew if a source has too few samples.
    """
    wordless = config.init or config.text_tower == NO_TOWER
    tokenizer = None if wordless else build(config.tokenizer, islice(texts_of(sources), _TEXTS))
    method, _ = build_method(config, tokenizer)
    stage = method.stages()[0]
    loaders = {}
    at = At(0, 1, 0, config.options.seed, stage.name)
    count = len(sources[stage.streams[0]])
    sources = _prepared(method, stage, sources, at)
    for stream in stage.streams[:1] if stage.turns else stage.streams:
        source = sources[stream]
        views = method.views(stage, stream)
        require(source, [name for view in views for name in view.reads], config.method)
        least = stage.batch_size(stream, stage.min_batch)
        if len(source) < least:
            raise TooFew(
                f"{config.method} trains on batches of at least {least} samples, and {source.name} has {len(source)}; "
                "name data with more"
            )
        probe = stage.batch_size(stream, max(min(_PROBE, len(source)), stage.min_batch))
        loaders[stream] = Loader(source, views, Fixed(), probe, steps=1)
    step = Step(method, config.recipe.precision)
    chunk = config.recipe.chunk
    if chunk is not None:
        gradcache.check(method)
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        parts = {stream: next(iter(loader.epoch(0))) for stream, loader in loaders.items()}
        batch = parts if len(stage.streams) > 1 else parts[stage.streams[0]]
        gradcache.strategy(chunk)(step, batch, at)
        seconds.append(time.perf_counter() - begun)
    parameters = sum(
        parameter.numel() for parameter in method.parameters() if parameter.requires_grad
    )
    probe = len(parts[stage.streams[0]]) / stage.share.get(stage.streams[0], 1)
    a_sample = min(seconds) / probe
    size = min(config.recipe.batch_size, count)
    return Estimate(
        method=config.method,
        preset=config.preset,
        batch_size=size,
        chunk=chunk,
        parameters=parameters,
        state_bytes=_state_bytes(method, config.recipe, stage.lr_scale),
        batch_bytes=round(_batch_bytes(step, batch, at, chunk, size, probe)),
        step_seconds=a_sample * size,
        epoch_seconds=a_sample * count,
    )


def _prepared(
    method: Method, stage: Stage, sources: Mapping[str, Source], at: At
) -> Mapping[str, Source]:
    """Return the sources with the columns that the stage's views read and its `prepare` computes, which
    is done for the probe's samples alone."""
    lacking = {
        name
        for stream in stage.streams
        for view in method.views(stage, stream)
        for name in view.reads
        if name not in sources[stream].schema() and not name.endswith("*")
    }
    if stage.prepare is None or not lacking:
        return sources
    few = {
        name: Wrapped(source, range(min(len(source), max(_PROBE, stage.min_batch))))
        for name, source in sources.items()
    }
    run = Run(method, few, at, torch.device("cpu"))
    stage.prepare(run)
    return with_columns(few, run.columns)


def _state_bytes(method: Method, recipe: Recipe, scale: Mapping[str, float]) -> int:
    """Return the bytes of weights and gradients after a backward pass, and of the optimiser's state
    after a step."""
    optimizer = optim.build(method, recipe, scale)
    optimizer.step()
    tensors = (tensor for p in method.parameters() for tensor in (p, p.grad) if tensor is not None)
    return sum(tensor.nbytes for tensor in tensors) + optim.state_bytes(optimizer)


def _batch_bytes(
    step: Step, batch: Any, at: At, chunk: int | None, size: int, probe: float
) -> float:
    """Return the bytes that backward keeps at a time for a batch of `size`, from those that it
    keeps for the `batch` of `probe` samples.

    At once: those of the whole batch. In pieces: those of the largest piece of a part, and the
    features of all samples with their gradients.
    """
    if chunk is None:
        return kept(step, partial(step, batch, at))[1] / probe * size
    streams = batch.values() if isinstance(batch, Mapping) else [batch]
    pieces = []
    features = 0
    for part in step.method.parts():
        found, held = kept(step, partial(step.encode, batch, at, part))
        count = max(
            math.ceil(len(each) / probe * size / gradcache.samples_at_once(each, part, chunk))
            for each in streams
        )
        pieces.append(held / probe * math.ceil(size / count))
        features += sum(value.nbytes for value in found.values())
    return max(pieces) + 2 * features / probe * size


def kept(step: Step, forward: Callable[[], Any]) -> tuple[Any, int]:
    """Return the result of `forward`, and the bytes that autograd keeps for backward.

    Parameters and views of them (a linear layer keeps its weight transposed) are not counted.
    """
    own = {parameter.untyped_storage()._cdata for parameter in step.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:  # its address; fake tensors have no data pointer
            held[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        found = forward()
    return found, sum(held.values())
