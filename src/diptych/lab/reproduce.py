"""Run a claim and judge it: its arms under each seed, every number stored, the verdict by rule.

Each arm of each seed is a separate job (`lab.pool`). The result of a job is stored at once, in the
user's cache, under a key of the claim's file, the version and the settings, with the digests of the
code that it ran. A run that was killed continues with what is missing or was computed by other
code. The verdict is written to results/claims/NAME.json atomically.
"""

import contextlib
import json
import math
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych import __version__
from diptych.data.sources import cache
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.lab import claim as claims
from diptych.lab import pool, verdict
from diptych.lab.claim import Claim, Trial
from diptych.lab.live import Board
from diptych.lab.pool import Job
from diptych.lab.provenance import (
    Stamp,
    blob_of,
    changed,
    digest_of,
    processor,
    shipped_digest,
    stamp,
    used,
    versions,
)
from diptych.lab.stored import FORMAT, Record, result_path

_PRELUDE = "(prelude)"  # used like an arm's name, which has no brackets
SHORT = 60.0  # seconds; if an arm takes less, a claim has MANY seeds
MANY = 5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run: a claim of a file, the seeds, and the path of its verdict (None: not stored)."""

    name: str
    path: Path
    block: str
    claim: Claim
    seeds: tuple[int, ...]
    quick: bool
    stamp: Stamp
    out: Path | None

    @property
    def shelf(self) -> Path:
        """The folder of the cache with the results of its jobs."""
        key = (self.block, self.stamp.blob, __version__, shipped_digest(), str(self.quick))
        return cache.named(f"claim-{self.name}", key, "")

    def place(self, seed: int) -> Path:
        """Return the folder of a seed in the cache."""
        return self.shelf / f"seed-{seed}"


def plan(
    name: str,
    *,
    block: str = "claim",
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    out: Path | None = None,
    folder: Path | None = None,
) -> Plan:
    """Find a claim and check that it may be run with these options. `quick` uses only the first
    seed.

    A verdict is stored if the seeds include all of the claim's. Raises InputError for an unknown
    name, for seeds that give no interval, and if a file with uncommitted changes would be run on
    its own seeds.
    """
    path = claims.find(name, folder)
    found = claims.block(path, block)
    marked = stamp(path)
    chosen = tuple(seeds if seeds is not None else found.seeds)[: 1 if quick else None]
    if len(set(chosen)) < len(chosen):
        raise InputError(f"the seeds {','.join(map(str, chosen))} name one twice; give each once")
    if not quick and len(chosen) < 2:
        raise InputError(
            "one seed gives no interval; give two or more with --seeds, or no verdict is due: --quick"
        )
    if not quick and marked.changed and set(found.seeds) & set(chosen):
        raise InputError(
            f"{path} has uncommitted changes, and what is expected is fixed before the result: commit it first. "
            "--quick, or --seeds with none of its own, tries it and stores nothing"
        )
    stores = not quick and set(found.seeds) <= set(chosen)
    return Plan(
        name=path.stem,
        path=path,
        block=block,
        claim=found,
        seeds=chosen,
        quick=quick,
        stamp=marked,
        out=result_path(path.stem, block, out) if stores else None,
    )


def reproduce(
    todo: Plan, *, at_once: int | None = None, hear: pool.Hear = lambda event, job, value: None
) -> Record:
    """Run what is missing of a plan, judge it, store the verdict if the plan says so, and return
    the record.

    `at_once` jobs run in parallel, by default one for each core. Raises InputError if an arm raises
    one (for missing data, say) or returns a number that is not finite, and if the claim's file
    changed in the meantime.
    """
    if not todo.quick:
        verdict.ready()
    at_once = pool.processes(at_once)
    todo.shelf.mkdir(parents=True, exist_ok=True)
    with pool.alone(todo.shelf, f"{todo.name} is being reproduced by another process; wait for it"):
        pool.run(_missing(todo), at_once, hear)
        _check_code(todo)
        record = _record(todo, at_once)
        if todo.out is not None:
            now = stamp(todo.path)
            if now.changed or now.blob != todo.stamp.blob:
                raise _changed(todo.path)
            record["file"] = now.to_dict()  # its commit may have changed since
            todo.out.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            write_atomic(todo.out, lambda path: path.write_text(text, encoding="utf-8"))
        _tidy(todo)
    return record


def _check_code(todo: Plan) -> None:
    """Raise InputError if code that a job ran has changed while others ran, since their numbers are
    then not comparable."""
    tasks = [_task(todo, seed, arm) for seed in todo.seeds for arm in todo.claim.arms]
    if touched := sorted({name for task in tasks for name in task.touched}):
        raise InputError(
            f"{', '.join(touched)} changed while {todo.name} ran, so nothing is stored; start again, and the arms that "
            "did not run this code are kept"
        )


def _changed(path: Path) -> InputError:
    return InputError(f"{path} was changed while it ran; nothing is stored, start again")


# ---- the jobs


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
    folder: Path

    @property
    def done(self) -> Path:
        """The file that marks it as done, with its cost and an arm's metrics."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def touched(self) -> list[str]:
        """The files of the package that it ran and that have changed since; none if it is not
        done."""
        return changed(_read_json(self.done)["used"]) if self.done.exists() else []

    @property
    def prelude(self) -> Path:
        """The file with the return value of the same seed's prelude."""
        return self.folder.with_name("prelude.pickle")


def _task(todo: Plan, seed: int, arm: str | None) -> Task:
    return Task(
        path=todo.path,
        block=todo.block,
        blob=todo.stamp.blob,
        arm=arm,
        seed=seed,
        quick=todo.quick,
        folder=todo.place(seed) / ("prelude" if arm is None else f"arm-{arm}"),
    )


def _missing(todo: Plan) -> list[Job]:
    """Return the jobs that no earlier run has done, seed by seed, with a prelude if an arm of its
    seed is missing."""
    jobs: list[Job] = []

    def add(
        task: Task, work: Callable[..., Any], after: tuple[str | int, ...] | None
    ) -> tuple[str | int, ...]:
        key = (todo.name, "seed", task.seed, task.arm or _PRELUDE)
        output = task.folder.with_name(f"{task.folder.name}.txt")
        jobs.append(Job(key=key, work=work, arguments=(task,), output=output, after=after))
        return key

    for seed in todo.seeds:
        tasks = [task for arm in todo.claim.arms if not _is_done(task := _task(todo, seed, arm))]
        first = None
        prelude = _task(todo, seed, None)
        todo.place(seed).mkdir(exist_ok=True)
        if (
            tasks
            and todo.claim.prelude is not None
            and not (_is_done(prelude) and prelude.prelude.exists())
        ):
            first = add(prelude, _run_prelude, None)
        for task in tasks:
            add(task, _run_arm, first)
    return jobs


def _is_done(task: Task) -> bool:
    """Whether it is done, by the current code."""
    return task.done.exists() and not task.touched


def _open(task: Task, say: Callable[[str], None], prelude: Any = None) -> tuple[Claim, Trial]:
    """In a job: return the claim, and a trial whose folder is emptied of files of a killed run."""
    if blob_of(task.path.read_bytes()) != task.blob:
        raise _changed(task.path)
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True)
    trial = Trial(seed=task.seed, folder=task.folder, quick=task.quick, prelude=prelude, log=say)
    return claims.block(task.path, task.block), trial


def _run_prelude(task: Task, say: Callable[[str], None]) -> dict[str, Any]:
    claim, trial = _open(task, say)
    assert claim.prelude is not None
    with _measured() as cost:
        value = claim.prelude(trial)
    _write_json(task.done, {**cost, "used": used()})
    write_atomic(
        task.prelude, lambda path: path.write_bytes(pickle.dumps(value))
    )  # last: it marks the prelude as done
    return cost


def _run_arm(task: Task, say: Callable[[str], None]) -> dict[str, Any]:
    assert task.arm is not None
    prelude = None
    before = {}
    if task.prelude.exists():
        prelude = pickle.loads(task.prelude.read_bytes())
        before = _read_json(task.prelude.with_suffix(".json"))["used"]
    claim, trial = _open(task, say, prelude)
    with _measured() as cost:
        metrics = _numbers(
            claim.arms[task.arm](trial), f"arm {task.arm!r} of {task.path.stem}, seed {task.seed}"
        )
    done = {"metrics": metrics, **cost}
    _write_json(task.done, {**done, "used": {**before, **used()}})
    return done


@contextlib.contextmanager
def _measured() -> Iterator[dict[str, Any]]:
    """Measure the cost of the work inside; CPU time is that of the whole process with its children,
    imports included."""
    cost: dict[str, Any] = {}
    begun = time.perf_counter()
    yield cost
    cost["seconds"] = round(time.perf_counter() - begun, 3)
    cost["cpu_seconds"] = round(sum(os.times()[:4]), 3)
    cost["processor"] = processor()


def _numbers(metrics: Mapping[str, float], whose: str) -> dict[str, float]:
    """Return metrics as plain floats. Raises InputError for one that is not finite."""
    found = {name: float(value) for name, value in metrics.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise InputError(
                f"{whose} gave {name} = {value}; let the arm return what a run that diverged is worth"
            )
    return found


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, lambda to: to.write_text(json.dumps(value) + "\n", encoding="utf-8"))


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


# ---- the record


def _record(todo: Plan, at_once: int) -> Record:
    """Return everything that is stored, from the results of the jobs."""
    claim = todo.claim
    seeds = todo.seeds
    runs = [
        {"seed": seed, "arm": arm, **_read_json(_task(todo, seed, arm).done)}
        for seed in seeds
        for arm in claim.arms
    ]
    preludes = [
        {"seed": seed, **_read_json(_task(todo, seed, None).done)}
        for seed in seeds
        if claim.prelude
    ]
    files = {name: digest for run in (*preludes, *runs) for name, digest in run.pop("used").items()}
    numbers = {
        seed: {run["arm"]: run["metrics"] for run in runs if run["seed"] == seed} for seed in seeds
    }
    return {
        "format": FORMAT,
        "claim": todo.name,
        "block": todo.block,
        "question": claim.question,
        **({"verdict": None} if todo.quick else verdict.judge(claim, numbers).to_dict()),
        "quick": todo.quick,
        "seeds": list(seeds),
        "seeds_of_claim": list(claim.seeds),
        "table": list(claim.shown),
        "arms": {
            arm: _summary([run["metrics"] for run in runs if run["arm"] == arm])
            for arm in claim.arms
        },
        "runs": runs,
        "preludes": preludes,
        "cpu_seconds": round(sum(cost["cpu_seconds"] for cost in (*runs, *preludes)), 1),
        "processes": at_once,
        "processors": sorted({cost["processor"] for cost in (*runs, *preludes)}),
        "versions": versions(),
        "code": digest_of(files),
        "file": todo.stamp.to_dict(),
    }


def _summary(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return for each metric that all seeds have the mean, and with two seeds or more its
    interval."""
    found = {}
    for name in runs[0]:
        values = [run[name] for run in runs if name in run]
        if len(values) == len(runs) > 1:
            over = verdict.interval(values)
            found[name] = {"mean": over.mean, "interval": [over.low, over.high]}
        elif len(values) == len(runs):
            found[name] = {"mean": values[0], "interval": None}
    return found


def board(todo: Plan) -> tuple[Board, pool.Hear]:
    """Return a table of a plan's arms that fills while it runs, and the function that fills it."""
    count = len(todo.seeds)
    rows = {
        **({_PRELUDE: count} if todo.claim.prelude else {}),
        **dict.fromkeys(todo.claim.arms, count),
    }
    table = Board(f"{todo.name}: {todo.claim.question}", rows, todo.claim.shown)
    for seed in todo.seeds:
        whole = all(
            _is_done(_task(todo, seed, arm)) for arm in todo.claim.arms
        )  # then its prelude is not needed
        for row in rows:
            task = _task(todo, seed, None if row == _PRELUDE else row)
            if _is_done(task) or (row == _PRELUDE and whole and task.done.exists()):
                table.known(row, _read_json(task.done).get("metrics", {}))

    def hear(event: str, job: Job, value: Any) -> None:
        table.hear(
            event,
            str(job.key[-1]),
            f"seed {job.key[2]}",
            value.get("metrics", {}) if event == "done" else value,
        )

    return table, hear


def few_seeds(record: Record) -> bool:
    """Whether an arm is so short that the rules require more seeds than there were."""
    return len(record["seeds"]) < MANY and any(run["seconds"] < SHORT for run in record["runs"])


def _tidy(todo: Plan) -> None:
    """Remove the files of finished jobs; the numbers stay, so that more seeds can be added."""
    for seed in todo.seeds:
        for path in todo.place(seed).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix in {".pickle", ".txt"}:
                path.unlink()
