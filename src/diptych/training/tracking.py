"""Trackers: send the numbers of metrics.jsonl to an experiment tracker, through accelerate.

Nothing is imported, written or connected to unless a run names its tracker.
"""

import json
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diptych.errors import InputError, brief
from diptych.files import read_json, write_atomic
from diptych.spec import check_record


@dataclass(frozen=True)
class _Known:
    """The contents of tracker.json: the run's key with each tracker."""

    runs: Mapping[str, str]


class Tracker:
    """Sends a run's config, and the numbers of each line of its log under the step `done`, to the
    named tracker.

    A resumed run continues in the same place: RUN/tensorboard, or the run whose id is in
    RUN/tracker.json. Raises InputError if the tracker's package is missing or it cannot start.
    """

    def __init__(self, name: str, out: Path, config: Mapping[str, Any]):
        if find_spec(name) is None:
            raise InputError(
                f"the tracker {name} is not installed; install it with: pip install 'diptych[{name}]'"
            )
        self.name = name
        self.out = out.resolve()
        self.config = dict(flat(config))
        self._tracker: Any = None

    def open(self, keep_before: int | None) -> None:
        """Start, or continue before step `keep_before`; later steps that a killed run has sent are
        sent again."""
        path = self.out / "tracker.json"
        known: dict[str, str] = {}
        if keep_before is not None and path.exists():
            remedy = "remove it to begin anew with the tracker"
            values = {"runs": read_json(path, remedy)}
            known = dict(check_record(_Known, values, path, remedy)["runs"])
        begun = self.name in known
        key = known.get(self.name, uuid.uuid4().hex[:8])
        with redirect_stdout(sys.stderr):  # trackers print; stdout is for results
            try:
                self._tracker = self._make(key, keep_before)
                self._tracker.start()
                if (
                    self.name == "tensorboard" and not begun
                ):  # the others replace an existing configuration
                    self._tracker.store_init_configuration(self.config)
            except Exception as error:
                raise InputError(
                    f"the tracker {self.name} cannot begin: {brief(error)}; mend that, or leave it out"
                ) from error
        write_atomic(
            path,
            lambda place: place.write_text(json.dumps({**known, self.name: key}), encoding="utf-8"),
        )

    def _make(self, key: str, keep_before: int | None) -> Any:
        from accelerate import tracking

        if self.name == "tensorboard":
            if keep_before is None:
                shutil.rmtree(self.out / "tensorboard", ignore_errors=True)
            return tracking.TensorBoardTracker("tensorboard", self.out, purge_step=keep_before)
        settings: dict[str, Any] = {"config": self.config, "resume": "allow"}
        if self.name == "wandb":
            return tracking.WandBTracker(
                "diptych", id=key, name=self.out.name, dir=str(self.out), **settings
            )
        return tracking.TrackioTracker("diptych", name=f"{self.out.name}-{key}", **settings)

    def write(self, values: Mapping[str, Any]) -> None:
        """Send the numbers of one line of the log, with "done" as their step; trackers have their
        own clock."""
        kept = {
            name: value for name, value in values.items() if name not in {"done", "step", "seconds"}
        }
        numbers = {name: value for name, value in kept.items() if isinstance(value, int | float)}
        self._tracker.log(numbers, step=values["done"])

    def close(self) -> None:
        """Send the remaining numbers."""
        if self._tracker is not None:
            with redirect_stdout(sys.stderr):
                self._tracker.finish()
            self._tracker = None


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a config by dotted name, in the form of trackers: lists as text, null
    left out.

    >>> dict(flat({"method": "clip", "init": None, "recipe": {"lr": 0.001, "betas": [0.9, 0.98]}}))
    {'method': 'clip', 'recipe.lr': 0.001, 'recipe.betas': '[0.9, 0.98]'}
    """
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield (
                f"{prefix}{name}",
                value if isinstance(value, str | int | float) else json.dumps(value),
            )
