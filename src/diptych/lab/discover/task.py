"""The task on which programs are measured: a training run of a method, and its loss on held-out
data."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from diptych.data.held import held, held_bytes
from diptych.data.sample import Sample, Source
from diptych.data.tokenizers import build
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.lab.discover.evolve import Measured
from diptych.methods.base import At, Losses, Method, Stage
from diptych.methods.make import NO_TOWER
from diptych.training import gradcache
from diptych.training.config import RunConfig
from diptych.training.engine import Engine
from diptych.training.feed import Feed
from diptych.training.launch import make_accelerator
from diptych.training.run import build_method, texts_of
from diptych.training.state import Position
from diptych.training.step import freeze_modes

MOST_HELD = 1 << 29
"""Bytes of decoded images that are kept in memory, since hundreds of runs read the same ones."""
EARLY = 0.3
"""The share of the steps after which a candidate may be stopped."""


class InMemory(Wrapped):
    """A source that keeps its samples with their images decoded, up to MOST_HELD bytes."""

    def __init__(self, source: Source):
        super().__init__(source)
        self._kept: dict[int, Sample] = {}
        self._bytes = 0

    def __getitem__(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self.source[index]
        if self._bytes < MOST_HELD:
            images = {role: held(image) for role, image in sample.images.items()}
            self._bytes += sum(map(held_bytes, images.values()))
            sample = replace(sample, images=images)
            self._kept[index] = sample
        return sample


class _Stopped(Exception):
    """Raised in a step to end a run."""


class Task:
    """Trains the method of `config` on `source`, and measures its own loss on all batches of `held`.

    The optimiser is the program's; all else, the batches included, depends on the seed alone.
    Raises InputError for a method with several stages or with one that prepares its data.
    """

    def __init__(self, config: RunConfig, source: Source, held: Source):
        self.config = config
        self.sources: dict[str, Source] = {"train": InMemory(source)}
        self.held = held
        self.accelerator = make_accelerator()
        self.tokenizer = None
        if not config.init and config.text_tower != NO_TOWER:
            self.tokenizer = build(config.tokenizer, texts_of({"train": source}))
        self._batches: list[Any] = []
        self._check()

    def another(self, config: RunConfig, held: Source) -> "Task":
        """Return a task with the same data and tokenizer, another config and other held-out data."""
        found = copy.copy(self)
        found.config = config
        found.held = held
        found._batches = []
        found._check()
        return found

    def _check(self) -> None:
        """Raise InputError if the method cannot be built, or the data lack a field of it."""
        method, _ = build_method(self.config, self.tokenizer)
        stage = self._stage(method)
        for samples in (*self.sources.values(), self.held):
            feed = Feed(method, {"train": samples}, self.config.options, self.accelerator.device)
            feed.loaders(stage, self.config.recipe)

    def measure(self, program: str, seed: int, bar: float = math.inf) -> Measured:
        """Train by a program's text; a run that diverges, or whose early loss is above `bar`, is
        stopped and has an infinite loss."""
        config = replace(
            self.config,
            recipe=replace(self.config.recipe, optimizer=program),
            options=replace(self.config.options, seed=seed, quiet=True, nonfinite="skip"),
        )
        method, _ = build_method(config, self.tokenizer)
        stage = self._stage(method)
        backward = gradcache.strategy(config.recipe.chunk)
        early = math.inf

        def watched(model: nn.Module, batch: Any, at: At) -> Losses:
            nonlocal early
            if at.step == max(1, round(EARLY * at.steps)):
                early = self._loss(engine, stage, at)
                if not early <= bar:
                    raise _Stopped
            losses = backward(model, batch, at)
            if not math.isfinite(float(losses.total.detach())):
                raise _Stopped
            return losses

        with TemporaryDirectory(prefix="diptych-discover-") as folder:
            engine = Engine(
                method,
                config.recipe,
                self.sources,
                Path(folder),
                config.options,
                accelerator=self.accelerator,
                backward=watched,
            )
            try:
                engine.run()
            except _Stopped:
                return Measured(math.inf, early)
            steps = engine.summary.steps
            loss = self._loss(engine, stage, At(steps - 1, steps, 0, seed, stage.name))
        return Measured(loss, early)

    @torch.no_grad()
    def _loss(self, engine: Engine, stage: Stage, at: At) -> float:
        """Return the mean loss over the held-out batches, infinite where it is not finite."""
        method = engine.method
        method.eval()
        losses = [
            float(Losses(*engine.step(batch, at)).total) for batch in self._held_out(engine, stage)
        ]
        method.train()
        freeze_modes(method)
        mean = sum(losses) / len(losses)
        return mean if math.isfinite(mean) else math.inf

    def _held_out(self, engine: Engine, stage: Stage) -> Sequence[Any]:
        """Return the batches of the held-out data; they are the same for all programs and seeds."""
        if not self._batches:
            options = replace(engine.options, seed=0)
            feed = Feed(engine.method, {"train": self.held}, options, engine.device)
            loaders = feed.loaders(stage, replace(engine.recipe, steps=None, epochs=1))
            self._batches = list(feed.epoch(stage, loaders, Position()))
        return self._batches

    def _stage(self, method: Method) -> Stage:
        stages = method.stages()
        if len(stages) != 1 or stages[0].prepare or list(stages[0].streams) != ["train"]:
            raise InputError(
                f"{self.config.method} trains in several stages, prepares its data or reads several streams; "
                "discover takes a method of one stage, such as clip"
            )
        return stages[0]
