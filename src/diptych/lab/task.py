"""One job of a claim: an arm, or the prelude, of a seed, in a process of its own (`lab.pool`)."""

import contextlib
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.errors import InputError, unknown
from diptych.files import write_atomic
from diptych.lab import claim as claims
from diptych.lab.claim import Claim, Trial, arm_names
from diptych.lab.plan import jobs_of
from diptych.lab.provenance import blob_of, changed, places, processor, used


@dataclass(frozen=True, kw_only=True)
class Task:
    """The argument of a job: the arm (None: the prelude) of a claim, and the folder of its files.

    `blob` is the content that the claim's file must have.
    """

    path: Path
    block: str
    blob: str
    arm: str | None
    seed: int
    quick: bool
    stretch: int
    folder: Path

    @property
    def done(self) -> Path:
        """The file that marks it as done, with its cost and an arm's metrics."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def touched(self) -> list[str]:
        """The files that it ran, those of the user included, and that have changed since; none if it
        is not done."""
        if not self.done.exists():
            return []
        done = read_json(self.done)
        return changed(done["used"], done.get("places", {}), self.path)

    @property
    def prelude(self) -> Path:
        """The file with the return value of the same seed's prelude."""
        return self.folder.with_name("prelude.pickle")


def is_done(task: Task) -> bool:
    """Whether it is done, by the current code."""
    return task.done.exists() and not task.touched


def _open(task: Task, say: Callable[[str], None], prelude: Any = None) -> tuple[Claim, Trial]:
    """In a job: return the claim, and a trial whose folder is emptied of files of a killed run."""
    if blob_of(task.path.read_bytes()) != task.blob:
        raise changed_meanwhile(task.path)
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True)
    trial = Trial(
        seed=task.seed,
        folder=task.folder,
        quick=task.quick,
        stretch=task.stretch,
        prelude=prelude,
        log=say,
    )
    return claims.block(task.path, task.block), trial


def run_prelude(task: Task, say: Callable[[str], None]) -> dict[str, Any]:
    claim, trial = _open(task, say)
    assert claim.prelude is not None
    with _measured() as cost:
        value = claim.prelude(trial)
    _write_json(task.done, {**cost, "used": used(task.path), "places": places(task.path)})
    write_atomic(
        task.prelude, lambda path: path.write_bytes(pickle.dumps(value))
    )  # last: it marks the prelude as done
    return cost


def run_arm(task: Task, say: Callable[[str], None]) -> dict[str, Any]:
    assert task.arm is not None
    prelude = None
    before: dict[str, Any] = {"used": {}}
    if task.prelude.exists():
        prelude = pickle.loads(task.prelude.read_bytes())
        before = read_json(task.prelude.with_suffix(".json"))
    claim, trial = _open(task, say, prelude)
    arms = jobs_of(claim)[task.arm]
    with _measured() as cost:
        returned = claim.arms[arms](trial)
    found = {arms: returned} if isinstance(arms, str) else returned
    metrics = {}
    items = {}
    for arm in arm_names(arms):
        whose = f"arm {arm!r} of {task.path.stem}, seed {task.seed}"
        metrics[arm], items[arm] = _numbers(found[arm], whose)
        for name in sorted(claim.needs(arm)):
            if name not in metrics[arm]:
                raise unknown(f"metric of {whose},", name, metrics[arm])
    done = {"metrics": metrics, "items": items, **cost}
    ran = {
        "used": {**before["used"], **used(task.path)},
        "places": {**before.get("places", {}), **places(task.path)},
    }
    _write_json(task.done, {**done, **ran})
    return done


@contextlib.contextmanager
def _measured() -> Iterator[dict[str, Any]]:
    """Measure the cost of the work inside; CPU time is that of the whole process with its children.
    Imports are included, but for those of the server that it is forked from."""
    cost: dict[str, Any] = {}
    begun = time.perf_counter()
    yield cost
    cost["seconds"] = round(time.perf_counter() - begun, 3)
    cost["cpu_seconds"] = round(sum(os.times()[:4]), 3)
    cost["processor"] = processor()


def _numbers(
    metrics: Mapping[str, Any], whose: str
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return metrics as plain floats, and the values of test items where a metric is their mean.
    Raises InputError for one that is not finite."""
    found = {}
    items = {}
    for name, value in metrics.items():
        column = np.atleast_1d(np.asarray(value, float))
        if not np.isfinite(column).all() or not len(column):
            raise InputError(
                f"{whose} gave {name} = {value}; let the arm return what a run that diverged is worth"
            )
        found[name] = float(column.mean())
        if np.ndim(value):
            items[name] = column.tolist()
    return found, items


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, lambda to: to.write_text(json.dumps(value) + "\n", encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def changed_meanwhile(path: Path) -> InputError:
    return InputError(f"{path} was changed while it ran; nothing is stored, start again")
