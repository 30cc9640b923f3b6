"""Run a claim and judge it: its arms under each seed, every number stored, the verdict by rule.

Each arm of each seed is a separate job (`lab.pool`). The result of a job is stored at once, in the
user's cache, under a key of the claim's file, the version and the settings, with the digests of the
code that it ran. A run that was killed continues with what is missing or was computed by other
code. A run that stores a verdict enters a line into the ledger when it starts and does one look of
the claim; the verdict is written to results/claims/NAME.json atomically. The next look takes the
numbers of earlier seeds from there, as long as no file that ran has changed.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.lab import pool, statistics, verdict
from diptych.lab.claim import CONVERGENCE, Claim
from diptych.lab.live import Board
from diptych.lab.plan import Plan, jobs_of
from diptych.lab.pool import Job
from diptych.lab.provenance import golden, head, stamp, versions
from diptych.lab.stored import FORMAT, Record, enter
from diptych.lab.task import Task, changed_meanwhile, is_done, read_json, run_arm, run_prelude

_PRELUDE = "(prelude)"  # these are used like an arm's name, which has no brackets
_TWICE = "(convergence)"
TWICE = 2
"""The multiple of an arm's steps at which convergence is tested."""


def reproduce(
    todo: Plan, *, at_once: int | None = None, hear: pool.Hear = lambda event, job, value: None
) -> Record:
    """Run what is missing of a plan, judge it, store the verdict if the plan says so, and return
    the record.

    `at_once` jobs run in parallel, by default one for each core. Raises InputError if an arm raises
    one (for missing data, say) or returns a number that is not finite, and if the claim's file
    changed in the meantime.
    """
    if todo.out is not None and todo.earlier is not None and not todo.new:
        return todo.earlier
    if not todo.quick:
        statistics.ready()
    at_once = pool.processes(at_once)
    todo.shelf.mkdir(parents=True, exist_ok=True)
    with pool.alone(todo.shelf, f"{todo.name} is being reproduced by another process; wait for it"):
        if todo.out is not None:
            enter(todo.out.parent, _entry(todo))
        pool.run(_missing(todo), at_once, hear)
        _check_code(todo)
        record = _record(todo, at_once)
        if todo.out is not None:
            now = stamp(todo.path, todo.block)
            if now.changed or now.blob != todo.stamp.blob:
                raise changed_meanwhile(todo.path)
            record["file"] = now.to_dict()  # its commit may have changed since
            record["head"], record["tree"] = head(todo.path)
            todo.out.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            write_atomic(todo.out, lambda path: path.write_text(text, encoding="utf-8"))
        _tidy(todo)
    return record


def _check_code(todo: Plan) -> None:
    """Raise InputError if code that a job ran has changed while others ran, since their numbers are
    then not comparable."""
    tasks = _tasks(todo)
    if touched := sorted({name for task in tasks for name in task.touched}):
        raise InputError(
            f"{', '.join(touched)} changed while {todo.name} ran, so nothing is stored; start again, and the arms that "
            "did not run this code are kept"
        )


def _entry(todo: Plan) -> Record:
    """The line of the ledger: what is started, when, and by which code."""
    commit, tree = head(todo.path)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "claim": todo.name,
        "block": todo.block,
        "seeds": list(todo.seeds),
        "blob": todo.stamp.blob,
        "head": commit,
        "tree": tree,
    }


# ---- the jobs


def _task(todo: Plan, seed: int, arm: str | None, stretch: int = 1) -> Task:
    folder = "prelude" if arm is None else f"arm-{arm}"
    return Task(
        path=todo.path,
        block=todo.block,
        blob=todo.stamp.blob,
        arm=arm,
        seed=seed,
        quick=todo.quick,
        stretch=stretch,
        folder=todo.place(seed) / (folder if stretch == 1 else f"{folder}-times-{stretch}"),
    )


def _tasks(todo: Plan) -> list[Task]:
    """The tasks of all arms of the seeds that are new, and those that test convergence."""
    found = [_task(todo, seed, arm) for seed in todo.new for arm in jobs_of(todo.claim)]
    found += [
        _task(todo, seed, arm, stretch)
        for seed in CONVERGENCE
        for arm in todo.convergence
        for stretch in (1, TWICE)
    ]
    return found


def _missing(todo: Plan) -> list[Job]:
    """Return the jobs that no earlier run has done, seed by seed, with a prelude if an arm of its
    seed is missing."""
    jobs: list[Job] = []

    def add(
        task: Task, work: Callable[..., Any], after: tuple[str | int, ...] | None
    ) -> tuple[str | int, ...]:
        arm = _PRELUDE if task.arm is None else task.folder.name.removeprefix("arm-")
        key = (todo.name, "seed", task.seed, arm)
        output = task.folder.with_name(f"{task.folder.name}.txt")
        jobs.append(Job(key=key, work=work, arguments=(task,), output=output, after=after))
        return key

    tasks = _tasks(todo)
    for seed in dict.fromkeys(task.seed for task in tasks):
        todo_here = [task for task in tasks if task.seed == seed and not is_done(task)]
        first = None
        prelude = _task(todo, seed, None)
        todo.place(seed).mkdir(exist_ok=True)
        if (
            todo_here
            and todo.claim.prelude is not None
            and not (is_done(prelude) and prelude.prelude.exists())
        ):
            first = add(prelude, run_prelude, None)
        for task in todo_here:
            add(task, run_arm, first)
    return jobs


# ---- the record


def _record(todo: Plan, at_once: int) -> Record:
    """Return everything that is stored, from the results of the jobs and of the look before."""
    claim = todo.claim
    before = todo.earlier or {"runs": [], "preludes": [], "twice": [], "pairs": {}, "files": {}}
    done = [
        (seed, job, read_json(_task(todo, seed, job).done))
        for seed in todo.new
        for job in jobs_of(claim)
    ]
    preludes = [
        {"seed": seed, **read_json(_task(todo, seed, None).done)}
        for seed in dict.fromkeys(task.seed for task in _tasks(todo))
        if claim.prelude
    ]
    twice = [
        {"stretch": stretch, **run}
        for seed in CONVERGENCE
        for job in todo.convergence
        for stretch in (1, TWICE)
        for run in _runs(seed, job, read_json(_task(todo, seed, job, stretch).done))
    ]
    files = dict(before["files"])
    for run in (*preludes, *(found for _, _, found in done)):
        files |= run.pop("used")
        run.pop("places", None)  # paths of this machine
    runs = [*before["runs"], *(run for each in done for run in _runs(*each))]
    preludes = [*before["preludes"], *preludes]
    twice = before["twice"] or twice
    pairs = {**before["pairs"], **_pairs(claim, done)}
    costs = [*runs, *preludes, *twice]
    return {
        "format": FORMAT,
        "claim": todo.name,
        "block": todo.block,
        "question": claim.question,
        **({"verdict": None} if todo.quick else _judged(claim, runs, pairs, twice)),
        "quick": todo.quick,
        "seeds": list(todo.seeds),
        "looks": list(claim.looks),
        "table": list(claim.shown),
        "arms": {
            arm: _summary([run["metrics"] for run in runs if run["arm"] == arm])
            for arm in claim.names
        },
        "runs": runs,
        "preludes": preludes,
        "twice": twice,
        "pairs": pairs,
        "cpu_seconds": round(sum(cost["cpu_seconds"] for cost in costs), 1),
        "processes": at_once,
        "processors": sorted({cost["processor"] for cost in costs}),
        "versions": versions(),
        "files": dict(sorted(files.items())),
        "golden": golden(todo.name),
        "head": None,
        "tree": None,
        "file": todo.stamp.to_dict(),
    }


def _runs(seed: int, job: str, done: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An entry for each arm of a job; its cost is at the first."""
    found = []
    for arm, metrics in done["metrics"].items():
        cost = {name: done[name] for name in ("seconds", "cpu_seconds", "processor")}
        if found:
            cost |= {"seconds": 0.0, "cpu_seconds": 0.0}
        found.append({"seed": seed, "arm": arm, "metrics": metrics, **cost})
    return found


def _pairs(
    claim: Claim, done: Sequence[tuple[int, str, Mapping[str, Any]]]
) -> dict[str, dict[str, list[float]]]:
    """For each seed and expectation between arms with items: how many, and the variance of their
    paired differences."""
    found: dict[str, dict[str, list[float]]] = {}
    items: dict[int, dict[str, Any]] = {}
    for seed, _, result in done:
        items.setdefault(seed, {}).update(result["items"])
    for seed, arms in items.items():
        for expect in claim.judged:
            ours = arms[expect.arm].get(expect.metric)
            theirs = None if expect.other is None else arms[expect.other].get(expect.metric)
            if ours is None or theirs is None:
                continue
            if len(ours) != len(theirs):
                raise InputError(
                    f"{expect}: {expect.arm} returned {len(ours)} items and {expect.other} {len(theirs)}, seed {seed}; "
                    "measure both on the same items"
                )
            d = np.array(ours) - np.array(theirs)
            variance = float(d.var(ddof=1)) if len(d) > 1 else 0.0
            found.setdefault(str(seed), {})[str(expect)] = [len(d), variance]
    return found


def _judged(
    claim: Claim,
    runs: Sequence[Mapping[str, Any]],
    pairs: Mapping[str, Any],
    twice: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    numbers: dict[int, dict[str, Any]] = {}
    for run in runs:
        numbers.setdefault(run["seed"], {})[run["arm"]] = run["metrics"]
    doubled: dict[int, dict[str, Any]] = {}
    for run in twice:
        sign = 1 if run["stretch"] == 1 else -1
        doubled.setdefault(sign * run["seed"], {})[run["arm"]] = run["metrics"]
    paired = {
        int(seed): {says: tuple(each) for says, each in of.items()} for seed, of in pairs.items()
    }
    return verdict.judge(claim, numbers, paired, doubled or None).to_dict()


def _summary(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return for each metric that all seeds have the mean, and with two seeds or more its
    interval."""
    found = {}
    for name in runs[0]:
        values = [run[name] for run in runs if name in run]
        if len(values) == len(runs) > 1:
            over = statistics.interval(values)
            found[name] = {"mean": over.mean, "interval": [over.low, over.high]}
        elif len(values) == len(runs):
            found[name] = {"mean": values[0], "interval": None}
    return found


def board(todo: Plan) -> tuple[Board, pool.Hear]:
    """Return a table of a plan's arms that fills while it runs, and the function that fills it."""
    tasks = _tasks(todo)
    seeds = dict.fromkeys(task.seed for task in tasks)
    twice = len(CONVERGENCE) * 2 * len(todo.convergence)
    rows = {
        **({_PRELUDE: len(seeds)} if todo.claim.prelude else {}),
        **dict.fromkeys(todo.claim.names, len(todo.seeds)),
        **({_TWICE: twice} if twice else {}),
    }
    table = Board(f"{todo.name}: {todo.claim.question}", rows, todo.claim.shown)
    for run in [] if todo.earlier is None else todo.earlier["runs"]:
        table.known(run["arm"], run["metrics"])

    def fill(seed: int, arm: str, done: Mapping[str, Any]) -> None:
        if seed not in todo.new or arm == _PRELUDE:
            table.known(_PRELUDE if arm == _PRELUDE else _TWICE, {})
        else:
            for name, metrics in done["metrics"].items():
                table.known(name, metrics)

    for seed in seeds:
        whole = all(is_done(task) for task in tasks if task.seed == seed)
        prelude = _task(todo, seed, None)
        if todo.claim.prelude and (is_done(prelude) or (whole and prelude.done.exists())):
            fill(seed, _PRELUDE, {})
    for task in tasks:
        if is_done(task):
            fill(task.seed, str(task.arm), read_json(task.done))

    def hear(event: str, job: Job, value: Any) -> None:
        seed = int(job.key[2])
        arm = str(job.key[3])
        row = arm if arm == _PRELUDE else _TWICE if seed not in todo.new else arm.split("+")[0]
        if event != "done" or row in (_PRELUDE, _TWICE):
            named = f"seed {seed}" if row != _TWICE else f"{arm} seed {seed}"
            table.hear(event, row, named, {} if event == "done" else value)
            return
        metrics = dict(value["metrics"])
        table.hear(event, row, f"seed {seed}", metrics.pop(row))
        for name, found in metrics.items():
            table.known(name, found)

    return table, hear


def _tidy(todo: Plan) -> None:
    """Remove the files of finished jobs; the numbers stay, so that more seeds can be added."""
    for seed in dict.fromkeys(task.seed for task in _tasks(todo)):
        for path in todo.place(seed).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix in {".pickle", ".txt"}:
                path.unlink()
