"""Selection: a stage ends with the weights of the epoch that the validation rated best, or early."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych import collectives
from diptych.errors import InputError, brief, unknown
from diptych.files import write_atomic
from diptych.methods.base import Recipe, Stage, of_validation
from diptych.training.schedule import Plateau


def by_recipe(stages: Sequence[Stage], recipe: Recipe) -> list[Stage]:
    """Return the stages with the recipe's selection, where they have steps and none of their own.

    >>> [stage] = by_recipe([Stage()], Recipe(select="-pair_loss", patience=2))
    >>> stage.select, stage.patience
    ('-val/pair_loss', 2)
    """
    if recipe.select is None:
        return list(stages)
    chosen = {
        "select": of_validation(recipe.select),
        "patience": recipe.patience,
        "keep": recipe.keep,
    }
    return [
        replace(stage, **chosen) if stage.optimize and stage.select is None else stage
        for stage in stages
    ]


class Selection:
    """The best epoch of a stage with `select`, and its weights, in a file of the folder `folder`.

    `best` is the number (negated if it should be small), `epoch` where it was reached, `values` all
    numbers of that epoch, and `waited` the number of epochs since. `lowered` is how often the rate
    was lowered on a plateau; `mark` is the number that the next must exceed for it, and `stalled` the
    number of epochs that did not.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.best: float | None = None
        self.epoch = 0
        self.waited = 0
        self.values: dict[str, float] = {}
        self.lowered = 0
        self.mark: float | None = None
        self.stalled = 0

    def check(self, stage: Stage, values: Mapping[str, float]) -> str:
        """Return the name of the number that a stage selects by. Raises InputError if the validation
        gives no such number."""
        assert stage.select is not None
        name = stage.select.removeprefix("-")
        if name not in values:
            raise unknown(
                f"number of the validation, which stage {stage.name!r} selects by,", name, values
            )
        return name

    def look(
        self,
        stage: Stage,
        epoch: int,
        values: Mapping[str, float],
        plateau: Plateau | None = None,
    ) -> bool:
        """Return whether this epoch is the best so far, and note whether it is on a plateau. Raises
        InputError as `check` does."""
        name = self.check(stage, values)
        value = -values[name] if f"-{name}" == stage.select else values[name]
        if plateau is not None:
            self._note(plateau, value)
        kept = self.best is not None and not math.isnan(self.best)
        if kept and not value > self.best:  # type: ignore[operator]
            self.waited += 1
            return False
        self.best = value
        self.epoch = epoch
        self.waited = 0
        self.values = dict(values)
        return True

    def _note(self, plateau: Plateau, value: float) -> None:
        """Lower the rate once more if too many epochs were no better."""
        better = self.mark is None or value > self.mark + plateau.threshold
        if better and not math.isnan(value):
            self.mark = value
            self.stalled = 0
            return
        self.stalled += 1
        if self.stalled > plateau.patience:
            self.lowered += 1
            self.stalled = 0

    def ended(self, stage: Stage) -> bool:
        """Whether `patience` epochs were no better."""
        return stage.patience is not None and self.waited >= stage.patience

    def write(self, stage: Stage, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of the best epoch. All ranks must call it."""
        if collectives.rank() == 0:
            own = {
                name: value.detach().cpu().contiguous().clone() for name, value in weights.items()
            }
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path(stage), lambda path: save_file(own, path))
        collectives.barrier()

    def read(self, stage: Stage) -> dict[str, Tensor]:
        """Return the weights of the best epoch."""
        path = self._path(stage)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path}, the weights of the best epoch, is damaged or missing ({brief(error)}); train anew"
            ) from None

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint; the weights are in the file."""
        return {
            "best": self.best,
            "epoch": self.epoch,
            "waited": self.waited,
            "values": self.values,
            "lowered": self.lowered,
            "mark": self.mark,
            "stalled": self.stalled,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.best = state.get("best")
        self.epoch = state.get("epoch", 0)
        self.waited = state.get("waited", 0)
        self.values = dict(state.get("values", {}))
        self.lowered = state.get("lowered", 0)
        self.mark = state.get("mark")
        self.stalled = state.get("stalled", 0)

    def _path(self, stage: Stage) -> Path:
        return self.folder / f"best-{stage.name}.safetensors"
