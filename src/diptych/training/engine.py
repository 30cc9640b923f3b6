"""The engine: the one training loop.

The order of events in a step is fixed: batches of all streams, encode, gather, loss (pure), backward, collective
finite check, clip, optimiser, clamps inside parameters, averaged weights, `after_step`, schedule, log, snapshot.
Everything that a step does follows from (seed, stage, step) and the state, so a run killed at any moment goes on
from its last checkpoint as if nothing had happened.
"""

import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych import collectives
from diptych.data.loader import Loader, require
from diptych.data.plan import Plan
from diptych.data.sample import Source
from diptych.errors import InputError
from diptych.methods.base import At, Losses, Method, Recipe, Stage
from diptych.towers.model import evaluating
from diptych.towers.parts import Momentum
from diptych.training import gradcache, optim
from diptych.training.guard import Guard, write_samples
from diptych.training.launch import make_accelerator, over_ranks
from diptych.training.log import Log, finite
from diptych.training.prepare import Run, load_columns, save_columns, with_columns
from diptych.training.schedule import factor
from diptych.training.state import Checkpoints
from diptych.training.step import Step, clamp, freeze_modes

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved."""


@dataclass(frozen=True, slots=True)
class Position:
    """The next step to take: `batch` of `epoch` is step `step` of stage number `stage`; `done` counts all stages'."""

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    done: int = 0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the engine runs, apart from what is learnt. `nonfinite`: "stop" the run or "skip" the step; `spike`: skip a
    step whose loss is above so many times the running median (`training.guard`). `shard`: each rank holds its share of
    parameters, gradients and optimiser state (`training.shard`)."""

    seed: int = 0
    workers: int = 0
    max_bad: float = 0.01
    save_every: int = 500
    nonfinite: str = "stop"
    spike: float | None = None
    shard: bool = False
    quiet: bool = False
    tracker: str | None = None


@dataclass
class Summary:
    """What a finished run reports."""

    steps: int
    skipped: int = 0
    damaged: dict[str, int] = field(default_factory=dict)


class Engine:
    """Trains a method on named sources into the folder `out`.

    `validate(module, done) -> numbers` is called after each epoch on rank 0. `backward(step, batch, at)` runs forward
    and backward of a step, in place of the recipe's way. `accelerator` gives the device and wraps for the ranks.
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
    ):
        self.accelerator = accelerator or make_accelerator()
        self.ranks = over_ranks(self.accelerator, options.shard)
        self.device: torch.device = self.accelerator.device
        method.meet(sources)
        self.method = method.to(self.device)
        self.step = Step(self.method, recipe.precision)
        self.recipe, self.sources, self.out, self.options = recipe, dict(sources), out, options
        self.validate, self.backward = validate, backward
        self.checkpoints = Checkpoints(out / "state")
        self.log = Log(out / "metrics.jsonl" if collectives.rank() == 0 else None, options.quiet)
        self.position = Position()
        self.columns: dict[str, dict[str, Any]] = {}
        self.summary = Summary(steps=0)
        self.guard = Guard(options.spike)
        self.damaged: dict[str, str] = {}
        self.average: Momentum | None = None
        if recipe.ema is not None:
            self.average = Momentum(method.deliver(), recipe.ema)
        self._stop = False

    # ---- the run

    def run(self, resume: bool = False) -> Summary:
        """Train all stages from the start, or from the last checkpoint. Raises Interrupted after SIGTERM."""
        if collectives.rank() == 0:
            self.checkpoints.clean()
        saved = self.checkpoints.load() if resume else None
        if saved is not None:
            self._restore(saved)
        self.ranks.begin(self.step, self.average)
        for source in self.sources.values():  # what could not even be indexed, such as a tar cut short
            self.damaged.update(getattr(source, "damage", {}))
        self._check_damage()
        self.log.open(self.position.done if resume else None)
        previous = (
            signal.signal(signal.SIGTERM, self._on_signal)
            if threading.current_thread() is threading.main_thread()
            else None
        )
        try:
            self.log.write(
                event="start", done=self.position.done, world_size=collectives.world_size(), device=str(self.device)
            )
            stages = self.method.stages()
            while self.position.stage < len(stages):
                self._run_stage(stages[self.position.stage], saved)
                saved = None
        finally:
            self.log.close()
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
        self.summary.damaged = dict(Counter(self.damaged.values()))
        return self.summary

    def delivered(self) -> nn.Module:
        """The module that gets saved: the averaged weights where the recipe keeps them."""
        return self.average.module if self.average is not None else self.method.deliver()

    def weights(self) -> dict[str, Tensor]:
        """The state dict of what is delivered, on rank 0; all ranks take part."""
        return self.ranks.whole(dict(self.delivered().state_dict()))

    def _run_stage(self, stage: Stage, saved: Any) -> None:
        recipe = replace(self.recipe, **stage.recipe)
        if not stage.descend:
            self._streams(stage)  # which says what the data lack
            self._prepare(stage)
            if self.average is not None:
                self.average.update(1.0)  # what it found are buffers; averaged weights stay
            self._end_stage()
            return
        optim.freeze(self.method, stage.scale)
        optimizer = optim.build(self.method, recipe, stage.scale)
        if saved is not None and saved["optimizer"] is not None:
            self.ranks.load(optimizer, saved["optimizer"])
        if stage.prepare and stage.every == "stage":
            self._prepare(stage)
        loaders = self._loaders(stage, recipe)
        steps = next(iter(loaders.values())).steps
        assert steps is not None
        self._warn_of_average(steps)
        self.step.precision = recipe.precision
        self.method.train()
        freeze_modes(self.method)
        if recipe.chunk is not None:
            gradcache.check(self.method)
        model = self.ranks.wrap(self.step, recipe.chunk)
        backward = partial(self.backward or gradcache.strategy(recipe.chunk), model)
        self.log.begin(stage.name, steps, self.position.step)
        while self.position.step < steps:
            if stage.prepare and stage.every == "epoch":
                self._prepare(stage)
                loaders = self._loaders(stage, recipe)
            length = len(loaders[stage.streams[0]].batches(self.position.epoch))
            for batch in self._epoch(stage, loaders):
                new_damage = self._note_damage(loaders)
                self._step(backward, optimizer, batch, stage, recipe, steps, new_damage)
                if self.position.batch == length:
                    self.position = replace(self.position, epoch=self.position.epoch + 1, batch=0)
                if self.position.batch == 0 or self.position.step == steps:
                    self._validate()
                if self.position.step == steps:
                    break
                self._snapshot(optimizer)
        self.log.end()
        self._end_stage()

    def _end_stage(self) -> None:
        self.position = Position(stage=self.position.stage + 1, done=self.position.done)
        self.guard.losses = []
        self._save(None)

    def _warn_of_average(self, steps: int) -> None:
        """An average that looks back further than the run delivers weights from its beginning."""
        ema = self.recipe.ema
        if ema is None or self.options.quiet or collectives.rank() or steps * (1 - ema) >= 2:
            return
        log.warning("ema %g averages over about %.0f steps and there are %d: much of what is delivered is the start; "
                    "lower --recipe.ema", ema, 1 / (1 - ema), steps)  # fmt: skip

    # ---- one step, in the order that the design fixes

    def _step(
        self,
        backward: Callable[[Any, At], Losses],
        optimizer: torch.optim.Optimizer,
        batch: Any,
        stage: Stage,
        recipe: Recipe,
        steps: int,
        new_damage: bool,
    ) -> None:
        at = At(self.position.step, steps, self.position.epoch, self.options.seed, stage.name)
        rate = factor(at.step, steps, schedule=recipe.schedule, warmup=recipe.warmup, min_lr=recipe.min_lr)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * group["multiplier"] * rate
        losses = backward(batch, at)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = self.ranks.clip(parameters, recipe.clip or float("inf"))
        total, broken = float(losses.total.detach()), not finite(losses.total, norm)
        leap = self.guard.leap(total)
        broken, spike, self._stop, new_damage = collectives.any_rank(broken, leap is not None, self._stop, new_damage)
        if new_damage:
            self._check_damage()
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
            self.position, step=at.step + 1, batch=self.position.batch + 1, done=self.position.done + 1
        )
        self.summary.steps = self.position.done
        self.log.write(
            stage=stage.name,
            done=self.position.done - 1,
            epoch=at.epoch,
            step=at.step,
            loss=total,
            **{f"loss/{name}": value for name, value in losses.terms.items() if len(losses.terms) > 1},
            **losses.logged,
            lr=recipe.lr * rate,
            grad_norm=norm,
            **({"skipped": True} if broken or spike else {}),
            **({"spike": leap} if spike else {}),
        )
        self.log.advance(at.step + 1, total)

    def _non_finite(self, batch: Any, at: At) -> None:
        """All ranks come here together, before the update: write down which samples met, then stop or skip."""
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

    def _streams(self, stage: Stage) -> dict[str, Source]:
        """The sources that a stage reads, by stream. Raises InputError where one is missing, or lacks a field."""
        sources = with_columns(self.sources, self.columns)
        for stream in stage.streams:
            if stream not in sources:
                raise InputError(
                    f"stage {stage.name!r} of {self.method.name} reads the stream {stream!r}; "
                    f"give it with --data {stream}=SOURCE"
                )
            views = self.method.views(stage, stream)
            require(sources[stream], [name for view in views for name in view.reads], self.method.name)
        return {stream: sources[stream] for stream in stage.streams}

    def _loaders(self, stage: Stage, recipe: Recipe) -> dict[str, Loader]:
        loaders = {}
        for stream, source in self._streams(stage).items():
            plan: Plan = stage.plan
            if recipe.batch_size < stage.min_batch:
                raise InputError(
                    f"batch size {recipe.batch_size} is below the {stage.min_batch} that "
                    f"{self.method.name} needs; raise --batch-size"
                )
            loaders[stream] = Loader(
                source,
                self.method.views(stage, stream),
                plan,
                recipe.batch_size,
                seed=self.options.seed,
                workers=self.options.workers,
                rank=collectives.rank(),
                ranks=collectives.world_size(),
                pin=self.device.type == "cuda",
            )
        length = len(loaders[stage.streams[0]].batches(0))
        for loader in loaders.values():
            loader.steps = recipe.steps or max(1, round(recipe.epochs * length))
        return loaders

    def _epoch(self, stage: Stage, loaders: Mapping[str, Loader]) -> Iterator[Any]:
        """The rest of this epoch's batches, on the device; the first stream sets the epoch, the others go round."""
        first, *others = stage.streams
        rounds = {name: loaders[name].endless(self.position.step) for name in others}
        for batch in loaders[first].epoch(self.position.epoch, self.position.batch, self.position.step):
            moved = batch.to(self.device)
            yield {first: moved, **{n: next(r).to(self.device) for n, r in rounds.items()}} if others else moved

    def _prepare(self, stage: Stage) -> None:
        """Fill the stage's columns, or read those that a run broken off in this stage has left."""
        assert stage.prepare is not None
        epoch = self.position.epoch
        path = self.out / "state" / f"columns-{stage.name}-{epoch}.safetensors"
        started = self.position.batch > 0 or (stage.every == "stage" and self.position.step > 0)
        if started and path.exists():
            self.columns = load_columns(path)
            return
        at = At(self.position.step, 0, epoch, self.options.seed, stage.name)
        sources = with_columns(self.sources, self.columns)
        run = Run(self.method, sources, at, self.device, self.options.workers, partial(self._note, stage, epoch))
        with self.ranks.gathered():
            stage.prepare(run)
        self.log.end()
        for stream, columns in run.columns.items():
            self.columns.setdefault(stream, {}).update(columns)
        if collectives.rank() == 0:
            save_columns(path, self.columns)

    def _note(self, stage: Stage, epoch: int, step: int, steps: int, loss: float, **logged: float) -> None:
        """One iteration of a search is done: log it; all ranks come here together."""
        self.log.begin(stage.name, steps, step)
        self.log.write(stage=stage.name, done=self.position.done, epoch=epoch, step=step, loss=loss, **logged)
        self.log.advance(step + 1, loss)
        self.position = replace(self.position, done=self.position.done + 1)
        self.summary.steps = self.position.done
        if collectives.any_rank(self._stop)[0]:
            raise Interrupted(f"stopped by a signal in stage {stage.name!r}, which saves nothing on its way; the same "
                              "command and --resume begin it anew")  # fmt: skip

    def _note_damage(self, loaders: Mapping[str, Loader]) -> bool:
        """Add what this rank's loaders could not read; whether there was anything new."""
        before = len(self.damaged)
        for loader in loaders.values():
            self.damaged.update(loader.damage.seen)
        return len(self.damaged) > before

    def _check_damage(self) -> None:
        """All ranks come here together: count each damaged sample once, stop where there are too many."""
        for seen in collectives.gather_objects(self.damaged):
            self.damaged.update(seen)
        total = sum(len(source) + len(getattr(source, "damage", ())) for source in self.sources.values())
        if len(self.damaged) <= self.options.max_bad * total:
            return
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(self.damaged.values()).most_common())
        some = ", ".join(list(self.damaged)[:3])
        raise InputError(
            f"{len(self.damaged)} of {total} samples are damaged so far ({reasons}; such as {some}), more "
            f"than --max-bad {self.options.max_bad:g} allows; mend the data (`diptych check` lists all) or "
            "raise --max-bad"
        )

    # ---- state

    def _snapshot(self, optimizer: torch.optim.Optimizer) -> None:
        if self._stop or self.position.done % self.options.save_every == 0:
            self._save(optimizer)
        if self._stop:
            raise Interrupted(
                f"stopped by a signal after step {self.position.done}; the state is saved in {self.out}. "
                "Go on with the same command and --resume"
            )

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        state = self.ranks.whole(
            {
                "position": asdict(self.position),
                "method": dict(self.method.state_dict()),
                "optimizer": optimizer.state_dict() if optimizer is not None else None,
                "average": dict(self.average.module.state_dict()) if self.average is not None else None,
                "damaged": dict(self.damaged),
                "skipped": self.summary.skipped,
                "guard": self.guard.losses,
            }
        )
        if collectives.rank() == 0:
            self.checkpoints.save(self.position.done, state)
        collectives.barrier()

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self.position = Position(**saved["position"])
        self.method.load_state_dict(saved["method"])
        if self.average is not None:
            self.average.module.load_state_dict(saved["average"])
        self.damaged, self.guard.losses = dict(saved["damaged"]), list(saved.get("guard", ()))
        self.summary.skipped, self.summary.steps = saved["skipped"], self.position.done
        for path in sorted((self.out / "state").glob("columns-*.safetensors"), key=lambda p: p.stat().st_mtime):
            self.columns = load_columns(path)

    def _validate(self) -> None:
        if self.validate is not None:
            with self.ranks.plain(self.delivered()) as module:
                if module is not None:
                    with evaluating(module):
                        values = self.validate(module, self.position.done)
                    self.log.write(event="validation", done=self.position.done - 1, **values)
        collectives.barrier()

    def _on_signal(self, number: int, frame: Any) -> None:
        self._stop = True
