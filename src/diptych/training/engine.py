"""The engine: the one training loop.

The order of events in a step is fixed: batches of all streams, learning rate, encode, gather, loss
(pure), backward, clip, collective finite check, optimiser, clamps inside parameters, averaged weights,
`after_step`, log, snapshot. Everything that a step does follows from (seed, stage, step) and the state,
so a run that is killed at any moment resumes from its last checkpoint as if it had not been interrupted.
"""

import logging
import math
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from diptych import collectives
from diptych.data.loader import Loader, worker_errors
from diptych.data.sample import Source
from diptych.errors import InputError
from diptych.methods.base import At, Losses, Method, Recipe, Stage
from diptych.training import gradcache, optim
from diptych.training.guard import LOOKS, write_samples
from diptych.training.log import check_logged, fetched
from diptych.training.options import Options
from diptych.training.prepare import Run, load_columns, save_columns
from diptych.training.progress import Progress, Summary
from diptych.training.schedule import Plateau, factor, shape_of
from diptych.training.selection import by_recipe
from diptych.training.state import Position, Saved
from diptych.training.step import clamp, freeze_modes

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """Raised after a signal asked the run to stop; its state is saved."""


class Engine(Progress):
    """Trains a method on named sources and writes the run to the folder `out`.

    - `validate(module, done) -> numbers` is called after each epoch on rank 0.
    - `backward(step, batch, at)` runs forward and backward of a step, in place of the recipe's way.
    - `remember(module) -> score` measures what the run must not forget, `LOOKS` times a stage. If
      the score falls by more than `forget`, the run ends with the weights of the previous
      measurement.
    - `keep[epochs]()` is called, on all ranks, after so many epochs of a run of one stage.
    - `accelerator` provides the device and wraps modules for the ranks.
    """

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        sources: Mapping[str, Source],
        out: Path,
        options: Options,
        *,
        accelerator: Any = None,
        validate: Callable[[nn.Module, int], Mapping[str, float]] | None = None,
        backward: Callable[[nn.Module, Any, At], Losses] | None = None,
        remember: Callable[[nn.Module], float] | None = None,
        keep: Mapping[float, Callable[[], None]] = MappingProxyType({}),
    ):
        super().__init__(
            method,
            recipe,
            sources,
            out,
            options,
            accelerator=accelerator,
            validate=validate,
            remember=remember,
        )
        self.backward = backward
        self.keep = keep
        self._loaders: dict[str, Loader] = {}  # of the first stage, made while checking the data
        self._asked = False  # this rank received a signal
        self._stop = False  # some rank received one, and all agree to stop

    # ---- the run

    def run(self, resume: bool = False, begun: Callable[[], None] | None = None) -> Summary:
        """Train all stages from the start, or from the last checkpoint with `resume`.

        `begun()` is called after all that can be refused before the first step, and before anything is
        written. Raises Interrupted after SIGTERM.
        """
        if collectives.rank() == 0:
            self.checkpoints.clean()
        saved = self._saved() if resume else None
        if saved is not None:
            with self._fitting():
                self._restore(saved)
        self.ranks.begin(self.step, self.average)
        self.feed.check()
        stages = by_recipe(self.method.stages(), self.recipe)
        self._check_stages(stages)
        self._warn_of_steps(stages)
        if self.position.stage == 0:
            self._check_first(stages[0])
        if begun is not None:
            begun()
        self.log.open(self.position.done if resume else None)
        previous = (
            signal.signal(signal.SIGTERM, self._on_signal)
            if threading.current_thread() is threading.main_thread()
            else None
        )
        try:
            self.log.write(
                event="start",
                done=self.position.done,
                world_size=collectives.world_size(),
                device=str(self.device),
            )
            if self.position.done == 0:
                self._forgets()
                self._try_selection(stages)
            with worker_errors(", ".join(source.name for source in self.feed.given.values())):
                while self.position.stage < len(stages) and not self.memory.lost:
                    self._run_stage(stages[self.position.stage], saved)
                    saved = None
        finally:
            self.log.close()
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
        self.summary.damaged = dict(self.feed.damaged)
        self.summary.forgot = dict(self.memory.lost)
        return self.summary

    def _run_stage(self, stage: Stage, saved: Saved | None) -> None:
        recipe = replace(self.recipe, **stage.recipe)
        if not stage.optimize:
            self.feed.streams(stage)  # raises InputError if the data lack a field
            self._prepare(stage)
            if self.average is not None:
                self.average.update(1.0)  # copies the buffers that it found; averaged weights stay
            self._validate()
            self._end_stage()
            return
        if stage.prepare:
            self._prepare(stage)
        optim.freeze(self.method, stage.lr_scale)
        optimizer = optim.build(self.method, recipe, stage.lr_scale)
        if saved is not None and saved.optimizer is not None:
            with self._fitting():
                self.ranks.load(optimizer, dict(saved.optimizer))
        loaders = self._loaders or self.feed.loaders(stage, recipe)
        self._loaders = {}
        steps = self.feed.steps(stage, recipe, loaders)
        kept = [
            (self.feed.steps(stage, replace(recipe, steps=None, epochs=epochs), loaders), write)
            for epochs, write in self.keep.items()
        ]
        self._warn_of_average(steps)
        self.step.precision = recipe.precision
        self._set_modes()
        if recipe.chunk is not None:
            gradcache.check(self.method)
        model = self.ranks.wrap(self.step, recipe.chunk)
        backward = partial(self.backward or gradcache.strategy(recipe.chunk), model)
        bounds = optim.bounded(self.method, stage.clip, recipe.clip)
        self.log.begin(stage.name, steps, self.position.step)
        prepared = self.position.epoch
        plateau = self._plateau(stage)
        while self.position.step < steps:
            if stage.prepare and stage.every == "epoch" and prepared != self.position.epoch:
                self._prepare(stage)
                self._set_modes()
                prepared = self.position.epoch
                loaders = self.feed.loaders(stage, recipe)
            length = self.feed.length(stage, loaders, self.position.epoch)
            ended = False
            for batch in self.feed.epoch(stage, loaders, self.position):
                new_damage = self.feed.note(loaders)
                self._step(backward, optimizer, bounds, batch, stage, recipe, steps, new_damage)
                if self.position.batch == length:
                    self.position = replace(self.position, epoch=self.position.epoch + 1, batch=0)
                for step, write in kept:
                    if self.position.step == step:
                        write()
                if self.position.batch == 0 or self.position.step == steps:
                    ended = self._select(stage, self._validate(), plateau)
                look = (
                    self.position.step % max(1, steps // LOOKS) == 0 or self.position.step == steps
                )
                if (look and self._forgets()) or ended or self.position.step == steps:
                    break
                self._snapshot(optimizer)
            if self.memory.lost or ended:
                break
        self._take_selected(stage)
        self.log.end()
        self._end_stage()

    def _plateau(self, stage: Stage) -> Plateau | None:
        """The schedule of a stage, if it follows the validation."""
        shape = shape_of(replace(self.recipe, **stage.recipe).schedule)
        return shape if isinstance(shape, Plateau) else None

    def _set_modes(self) -> None:
        """Put the method into training mode, and what is frozen into evaluation mode."""
        self.method.train()
        freeze_modes(self.method)

    def _check_stages(self, stages: Sequence[Stage]) -> None:
        searches = not all(stage.optimize for stage in stages)
        if self.options.shard and collectives.world_size() > 1 and searches:
            raise InputError(
                f"{self.method.name} searches with whole weights, which shards do not have; leave --shard out"
            )
        if self.keep and len(stages) > 1:
            raise InputError(
                f"{self.method.name} trains in {len(stages)} stages, so a checkpoint is no shorter run; "
                "train each length by itself"
            )
        for stage in stages:
            if stage.select and self.validate is None:
                raise InputError(
                    f"stage {stage.name!r} of {self.method.name} ends with the epoch whose {stage.select.lstrip('-')} "
                    "is best in the validation; give it with --val SOURCE"
                )
            if stage.optimize and not stage.select and self._plateau(stage):
                raise InputError(
                    "the schedule plateau follows a number of the validation; name it with --select, such as t2i_r1"
                )

    def _check_first(self, stage: Stage) -> None:
        """Raise InputError if the first stage cannot be chunked, or if the data do not suit it, unless
        it prepares them itself."""
        recipe = replace(self.recipe, **stage.recipe)
        if not stage.optimize:
            self.feed.streams(stage)
            return
        if recipe.chunk is not None:
            optim.freeze(self.method, stage.lr_scale)
            self._set_modes()
            gradcache.check(self.method)
        if stage.prepare is None:
            self._loaders = self.feed.loaders(stage, recipe)

    def _end_stage(self) -> None:
        self.position = Position(stage=self.position.stage + 1, done=self.position.done)
        self.guard.losses = []
        self.selection.restore({})
        self._save(None)

    def _warn_of_steps(self, stages: Sequence[Stage]) -> None:
        """Warn if steps are asked for, and no stage takes steps of an optimizer."""
        if self.recipe.steps is None or any(stage.optimize for stage in stages):
            return
        if not self.options.quiet and not collectives.rank():
            log.warning(
                "%s is fitted without steps of an optimizer: --steps %d changes nothing",
                self.method.name,
                self.recipe.steps,
            )

    def _warn_of_average(self, steps: int) -> None:
        """Warn if the average spans more steps than the run, so that it delivers weights from its
        beginning."""
        ema = self.recipe.ema
        if ema is None or self.options.quiet or collectives.rank() or steps * (1 - ema) >= 2:
            return
        log.warning(
            "ema %g averages over about %.0f steps and there are %d: much of what is delivered is the start; "
            "lower --recipe.ema",
            ema,
            1 / (1 - ema),
            steps,
        )

    # ---- one step, in the order that the design fixes

    def _step(
        self,
        backward: Callable[[Any, At], Losses],
        optimizer: torch.optim.Optimizer,
        bounds: Sequence[tuple[float, Sequence[nn.Parameter]]],
        batch: Any,
        stage: Stage,
        recipe: Recipe,
        steps: int,
        new_damage: bool,
    ) -> None:
        at = At(self.position.step, steps, self.position.epoch, self.options.seed, stage.name)
        rate = factor(
            at.step,
            steps,
            schedule=recipe.schedule,
            warmup=recipe.warmup,
            min_lr=recipe.min_lr,
            lowered=self.selection.lowered,
        )
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * group["multiplier"] * rate
        losses = backward(batch, at)
        terms = {f"loss/{name}": value for name, value in losses.terms.items()}
        # the one time in a step that it waits for the device
        numbers = fetched(
            {"loss": losses.total, "grad_norm": self._clip(bounds), **terms, **losses.logged}
        )
        total = numbers["loss"]
        norm = numbers["grad_norm"]
        broken = not (math.isfinite(total) and math.isfinite(norm))
        leap = self.guard.leap(total)
        broken, spike, self._stop, new_damage = collectives.any_rank(
            broken, leap is not None, self._asked, new_damage
        )
        if new_damage:
            self.feed.check()
        if broken:
            self._non_finite(batch, at)
        elif spike:
            write_samples(self.out / f"spike-{self.position.done}.json", batch, at)
            self.summary.skipped += 1
        else:
            optimizer.step()
            clamp(self.method)
            if self.average is not None:
                self.average.update()
            self.method.after_step(losses.carry, at)
        optimizer.zero_grad(set_to_none=True)
        self.position = replace(
            self.position,
            step=at.step + 1,
            batch=self.position.batch + 1,
            done=self.position.done + 1,
        )
        self.summary.steps = self.position.done
        self.log.write(
            stage=stage.name,
            done=self.position.done - 1,
            epoch=at.epoch,
            step=at.step,
            loss=total,
            **{
                f"loss/{name}": numbers[f"loss/{name}"]
                for name in losses.terms
                if len(losses.terms) > 1
            },
            **{name: numbers[name] for name in losses.logged},
            samples=_samples(batch),
            lr=recipe.lr * rate,
            grad_norm=norm,
            **({"skipped": True} if broken or spike else {}),
            **({"spike": leap} if spike else {}),
        )
        self.log.advance(at.step + 1, total)

    def _clip(self, bounds: Sequence[tuple[float, Sequence[nn.Parameter]]]) -> Tensor:
        """Clip the gradients of each group of parameters to its bound; return the norm of all."""
        norms = []
        for most, group in bounds:
            with_gradient = [p for p in group if p.grad is not None]
            norms.append(self.ranks.clip(with_gradient, most))
        return norms[0] if len(norms) == 1 else torch.stack(norms).norm()

    def _non_finite(self, batch: Any, at: At) -> None:
        """Write down the samples of the batch, then stop or skip the update. All ranks must call
        it."""
        path = self.out / f"nonfinite-{self.position.done}.json"
        some = write_samples(path, batch, at)
        if self.options.nonfinite == "stop":
            raise InputError(
                f"loss or gradient is not finite at step {at.step} of stage {at.stage!r}; nothing was "
                f"updated. Its samples ({some}, …) are listed in {path}. Lower --lr, set a gradient clip, "
                "or skip such steps with --nonfinite skip"
            )
        self.summary.skipped += 1

    # ---- data

    def _prepare(self, stage: Stage) -> None:
        """Fill the stage's columns, or read those that an earlier run wrote before it stopped in
        this stage."""
        assert stage.prepare is not None
        epoch = self.position.epoch
        path = self.out / "state" / f"columns-{stage.name}-{epoch}.safetensors"
        started = self.position.batch > 0 or (stage.every == "stage" and self.position.step > 0)
        if started and path.exists():
            self.feed.columns = load_columns(path)
            return
        at = At(self.position.step, 0, epoch, self.options.seed, stage.name)
        note = partial(self._note, stage, epoch)
        recipe = replace(self.recipe, **stage.recipe)
        run = Run(
            self.method,
            self.feed.sources,
            at,
            self.device,
            self.options.workers,
            note,
            self.out,
            recipe.batch_size,
            recipe.precision,
        )
        before = _shapes(self.method)
        with self.ranks.gathered():
            stage.prepare(run)
        self.log.end()
        for name, shape in _shapes(self.method).items():
            if before.get(name) != shape:
                raise InputError(
                    f"prepare of stage {stage.name!r} changed the shape of {name}, and a run keeps its shapes; "
                    "change it where the method is built, or in a run of its own with --init"
                )
        for stream, columns in run.columns.items():
            self.feed.columns.setdefault(stream, {}).update(columns)
        if collectives.rank() == 0:
            save_columns(path, self.feed.columns)

    def _note(
        self, stage: Stage, epoch: int, step: int, steps: int, loss: float, **logged: float
    ) -> None:
        """Log one iteration of a search. All ranks must call it."""
        check_logged(logged, f"the note of stage {stage.name!r} of {self.method.name}")
        self.log.begin(stage.name, steps, step)
        self.log.write(
            stage=stage.name, done=self.position.done, epoch=epoch, step=step, loss=loss, **logged
        )
        self.log.advance(step + 1, loss)
        self.position = replace(self.position, done=self.position.done + 1)
        self.summary.steps = self.position.done
        if collectives.any_rank(self._asked)[0]:
            raise Interrupted(
                f"stopped by a signal in stage {stage.name!r}, which saves nothing on its way; the same "
                "command and --resume begin it anew"
            )

    # ---- stops

    def _snapshot(self, optimizer: torch.optim.Optimizer) -> None:
        if collectives.world_size() == 1:
            self._stop = (
                self._asked
            )  # also if it came after the step; several ranks agree on it within a step
        if self._stop or self.position.done % self.options.save_every == 0:
            self._save(optimizer)
        if self._stop:
            raise Interrupted(
                f"stopped by a signal after step {self.position.done}; the state is saved in {self.out}. "
                "Go on with the same command and --resume"
            )

    def _on_signal(self, number: int, frame: Any) -> None:
        self._asked = True


def _samples(batch: Any) -> int:
    """Return how many samples the ranks read together in a step, up to one for each of them."""
    parts = batch.values() if isinstance(batch, Mapping) else (batch,)
    return sum(len(each.keys) for each in parts) * collectives.world_size()


def _shapes(method: Method) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in method.named_parameters()}
