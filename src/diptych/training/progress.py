"""The progress of a run between two steps: its state, what a checkpoint holds of it, and how its
weights are measured and chosen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych import collectives
from diptych.data.sample import Source
from diptych.errors import InputError, brief
from diptych.methods.base import Method, Recipe, Stage
from diptych.models.model import evaluating
from diptych.spec import check_record, configure
from diptych.towers.dual import renamed_entries
from diptych.towers.nn.parts import Momentum
from diptych.training.feed import Feed
from diptych.training.guard import ForgettingGuard, SpikeGuard
from diptych.training.launch import make_accelerator, strategy
from diptych.training.log import Log
from diptych.training.options import Options
from diptych.training.prepare import load_columns
from diptych.training.schedule import Plateau
from diptych.training.selection import Selection
from diptych.training.state import Checkpoints, Position, Saved
from diptych.training.step import Step

_REMEDY = (
    "remove the checkpoint to go on from the one before, or begin a new run with another --out"
)


@dataclass
class Summary:
    """The result of a finished run."""

    steps: int
    skipped: int = 0
    damaged: dict[str, str] = field(default_factory=dict)  # key or place -> reason
    forgot: Mapping[str, float] = field(
        default_factory=dict
    )  # the guard's report, if it ended the run


class Progress:
    """The state of a run of a method on named sources in the folder `out`.

    The arguments are those of `Engine`, which changes the state step by step. All ranks must call
    the methods alike.
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
        remember: Callable[[nn.Module], float] | None = None,
    ):
        self.accelerator = accelerator or make_accelerator()
        self.ranks = strategy(self.accelerator, options.shard)
        self.device: torch.device = self.accelerator.device
        method.setup(sources)
        self.method = method.to(self.device)
        self.step = Step(self.method, recipe.precision)
        self.recipe = recipe
        self.out = out
        self.options = options
        self.feed = Feed(method, sources, options, self.device)
        self.validate = validate
        self.checkpoints = Checkpoints(out / "state")
        self.log = Log(out / "metrics.jsonl" if collectives.rank() == 0 else None, options.quiet)
        self.position = Position()
        self.summary = Summary(steps=0)
        self.guard = SpikeGuard(options.spike)
        self.memory = ForgettingGuard(remember, options.forget, out / "state")
        self.selection = Selection(out / "state")
        self.average: Momentum | None = None
        if recipe.ema is not None and any(stage.optimize for stage in method.stages()):
            self.average = Momentum(method.deliver(), recipe.ema)

    def delivered(self) -> nn.Module:
        """Return the module to save: the averaged weights if the recipe keeps them."""
        return self.average.module if self.average is not None else self.method.deliver()

    def weights(self) -> dict[str, Tensor]:
        """Return the state dict of the delivered module on rank 0. All ranks must call it."""
        if self.memory.lost:
            return self.memory.weights()
        return self.ranks.full_tensors(dict(self.delivered().state_dict()))

    # ---- checkpoints

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        state = self.ranks.full_tensors(
            {
                "position": asdict(self.position),
                "method": dict(self.method.state_dict()),
                "optimizer": optimizer.state_dict() if optimizer is not None else None,
                "average": dict(self.average.module.state_dict())
                if self.average is not None
                else None,
                "damaged": dict(self.feed.damaged),
                "skipped": self.summary.skipped,
                "guard": self.guard.losses,
                "memory": self.memory.state(),
                "selection": self.selection.state(),
                "data": self.feed.identity,
            }
        )
        if collectives.rank() == 0:
            self.checkpoints.save(self.position.done, state)
        collectives.barrier()

    def _saved(self) -> Saved | None:
        values = self.checkpoints.load()
        if values is None:
            return None
        return Saved(**check_record(Saved, values, self.checkpoints.newest(), _REMEDY))

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Raise InputError if a checkpoint does not fit this run, with the names and shapes that
        differ."""
        try:
            yield
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            message = f"checkpoint {self.checkpoints.newest()} does not fit the run ({brief(error)}); {_REMEDY}"
            raise InputError(message) from error

    def _restore(self, saved: Saved) -> None:
        self.feed.check_same(saved.data)
        self.position = configure(
            Position, saved.position, f"checkpoint {self.checkpoints.newest()}"
        )
        if self.position.stage > len(self.method.stages()):
            raise ValueError(f"stage {self.position.stage} of {len(self.method.stages())}")
        self.method.load_state_dict(renamed_entries(saved.method, self.method.state_dict()))
        if self.average is not None:
            average = self.average.module
            average.load_state_dict(renamed_entries(saved.average or {}, average.state_dict()))
        self.feed.damaged = dict(saved.damaged)
        self.guard.losses = list(saved.guard)
        self.memory.restore(saved.memory)
        self.selection.restore(saved.selection)
        self.summary.skipped = saved.skipped
        self.summary.steps = self.position.done
        for path in sorted(
            (self.out / "state").glob("columns-*.safetensors"), key=lambda p: p.stat().st_mtime
        ):
            self.feed.columns = load_columns(path)

    # ---- measurements

    def _validate(self) -> Mapping[str, float]:
        """Return the numbers of the validation, on all ranks; none without one."""
        values: Mapping[str, float] = {}
        if self.validate is not None:
            with self.ranks.plain(self.delivered()) as module:
                if module is not None:
                    with evaluating(module):
                        values = self.validate(module, self.position.done)
                    self.log.write(event="validation", done=self.position.done - 1, **values)
        return collectives.broadcast_object(values)

    def _try_selection(self, stages: Sequence[Stage]) -> None:
        """Validate before the first step if the recipe selects, so that a wrong name costs no epoch
        and the log shows the start."""
        if self.recipe.select is None:
            return
        values = self._validate()
        for stage in stages:
            if stage.select:
                self.selection.check(stage, values)

    def _select(self, stage: Stage, values: Mapping[str, float], plateau: Plateau | None) -> bool:
        """Keep the weights if the epoch is the stage's best, and return whether its patience is at
        an end. All ranks must call it."""
        if stage.select is None:
            return False
        epoch = self.position.epoch - (self.position.batch == 0)
        if self.selection.look(stage, epoch, values, plateau) and stage.keep == "best":
            self.selection.write(stage, self.ranks.full_tensors(self._weights()))
        return self.selection.ended(stage)

    def _take_selected(self, stage: Stage) -> None:
        """Load the weights of the stage's best epoch."""
        if stage.select is None or stage.keep == "last" or self.memory.lost:
            return
        best = self.selection.read(stage)
        with torch.no_grad():
            for name, value in self._weights().items():
                value.copy_(collectives.shared(best[name].to(value.device), value))
        self.log.write(
            event="selected",
            done=self.position.done - 1,
            stage=stage.name,
            epoch=self.selection.epoch,
            **self.selection.values,
        )

    def _weights(self) -> dict[str, Tensor]:
        """Return the tensors of the method and of the averaged weights."""
        found = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        if self.average is not None:
            averaged = self.average.module.state_dict()
            found |= {f"average.{name}": value for name, value in averaged.items()}
        return found

    def _forgets(self) -> bool:
        """Measure what is guarded, on rank 0, and return whether it fell too far.

        If so, the run ends with the weights of the last measurement at which it had not. All ranks
        must call it.
        """
        if self.memory.remember is None:
            return False
        score = 0.0
        with self.ranks.plain(self.delivered()) as module:
            if module is not None:
                with evaluating(module):
                    score = self.memory.remember(module)
        score = collectives.broadcast_object(score)
        lost = self.memory.look(score, self.position.done, self.weights)
        self.log.write(
            event="guard",
            done=self.position.done - 1,
            score=score,
            **({"lost": True} if lost else {}),
        )
        return lost
