"""Run a claim and judge it: its arms under each seed, every number stored, the verdict by rule.

Each arm of each seed is a separate job (`lab.pool`). The result of a job is stored at once, in the
user's cache, under a key of the claim's file, the version and the settings, with the digests of the
code that it ran. A run that was killed continues with what is missing or was computed by other
code. A run that stores a verdict enters a line into the ledger when it starts and does one look of
the claim; the verdict is written to results/claims/NAME.json atomically. The next look takes the
numbers of earlier seeds from there, as long as no file that ran has changed.
"""

import contextlib
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych import __version__
from diptych.data.sources import cache
from diptych.errors import InputError, unknown
from diptych.files import write_atomic
from diptych.lab import claim as claims
from diptych.lab import pool, verdict
from diptych.lab.claim import CONVERGENCE, TUNING, Claim, Trial, arm_names
from diptych.lab.live import Board
from diptych.lab.pool import Job
from diptych.lab.provenance import (
    Stamp,
    blob_of,
    changed,
    golden,
    head,
    processor,
    shipped_digest,
    stamp,
    uncommitted,
    used,
    versions,
)
from diptych.lab.stored import FORMAT, Record, enter, read_result, result_path, since

_PRELUDE = "(prelude)"  # these are used like an arm's name, which has no brackets
_TWICE = "(convergence)"
TWICE = 2
"""The multiple of an arm's steps at which convergence is tested."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run: a claim of a file, the seeds, and the path of its verdict (None: not stored).

    `earlier` is the record of the look before, whose seeds are not run again.
    """

    name: str
    path: Path
    block: str
    claim: Claim
    seeds: tuple[int, ...]
    quick: bool
    stamp: Stamp
    out: Path | None
    earlier: Record | None = None

    @property
    def shelf(self) -> Path:
        """The folder of the cache with the results of its jobs."""
        key = (self.block, self.stamp.blob, __version__, shipped_digest(), str(self.quick))
        return cache.named(f"claim-{self.name}", key, "")

    def place(self, seed: int) -> Path:
        """Return the folder of a seed in the cache."""
        return self.shelf / f"seed-{seed}"

    @property
    def new(self) -> tuple[int, ...]:
        """The seeds that the record of an earlier look does not have."""
        had = [] if self.earlier is None else self.earlier["seeds"]
        return tuple(seed for seed in self.seeds if seed not in had)

    @property
    def convergence(self) -> tuple[str, ...]:
        """The jobs that are also run on tuning seeds, at their steps and at twice as many: those of
        the headline's arms, at the first look of a stored verdict."""
        if self.out is None or self.earlier is not None or not self.claim.steps:
            return ()
        wanted = {arm for expect in self.claim.headline for arm, _ in expect.reads}
        return tuple(
            job for job, arms in jobs_of(self.claim).items() if wanted & set(arm_names(arms))
        )


def jobs_of(claim: Claim) -> dict[str, str | tuple[str, ...]]:
    """Return the arms by the names of their jobs: `a+b` does several at once."""
    return {"+".join(arm_names(arms)): arms for arms in claim.arms}


def plan(
    name: str,
    *,
    block: str = "claim",
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    out: Path | None = None,
    folder: Path | None = None,
) -> Plan:
    """Find a claim and check that it may be run with these options.

    Without `seeds` this is the claim's next look, whose verdict is stored. `seeds` are tried and
    judged, and nothing is stored; `quick` uses the first seed alone. Raises InputError for an
    unknown name, for seeds that give no interval, for a tree with uncommitted changes, for a claim
    without the numbers of its tuning seeds, and where the code of an earlier look has changed.
    """
    path = claims.find(name, folder)
    found = claims.block(path, block)
    plain = Plan(
        name=path.stem,
        path=path,
        block=block,
        claim=found,
        seeds=tuple(seeds if seeds is not None else found.seeds)[: 1 if quick else None],
        quick=quick,
        stamp=stamp(path),
        out=None,
    )
    if len(set(plain.seeds)) < len(plain.seeds):
        raise InputError(
            f"the seeds {','.join(map(str, plain.seeds))} name one twice; give each once"
        )
    if quick:
        return plain
    if len(plain.seeds) < 2:
        raise InputError(
            "one seed gives no interval; give two or more with --seeds, or no verdict is due: --quick"
        )
    if seeds is not None:
        if set(found.seeds) & set(plain.seeds):
            raise InputError(
                f"the seeds {found.seeds[0]} to {found.seeds[-1]} are those of stored looks; try others, such as "
                f"{','.join(map(str, TUNING[:4]))}"
            )
        return plain
    return _next_look(plain, result_path(path.stem, block, out))


def _next_look(plain: Plan, out: Path) -> Plan:
    """The plan of a claim's next look; of the first one where there is no result, or one of another
    form of the claim."""
    claim = plain.claim
    if claim.tuned is None:
        raise InputError(
            f"{plain.path}: `tuned` is missing; try the claim on tuning seeds "
            f"(--seeds {','.join(map(str, TUNING[:4]))}), and commit what they show before the result"
        )
    if names := uncommitted(plain.path):
        raise InputError(
            f"{names[0]} has uncommitted changes, and what is expected is fixed before the result: commit it first. "
            "--quick, or --seeds with none of its own, tries the claim and stores nothing"
        )
    earlier = read_result(out)
    if earlier is None or earlier["format"] != FORMAT or since(earlier, plain.path)[0]:
        return replace(plain, seeds=claim.seeds[: claim.looks[0]], out=out)
    look = earlier["open_look"]
    if look is None:
        return replace(plain, seeds=tuple(earlier["seeds"]), out=out, earlier=earlier)
    if others := since(earlier, plain.path)[1]:
        raise InputError(
            f"the look at {look} seeds is due, and {others[0]} has changed since the last one: run it in a worktree of "
            f"that code (git worktree add FOLDER {(earlier['head'] or 'COMMIT')[:12]})"
        )
    return replace(plain, seeds=claim.seeds[:look], out=out, earlier=earlier)


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
        verdict.ready()
    at_once = pool.processes(at_once)
    todo.shelf.mkdir(parents=True, exist_ok=True)
    with pool.alone(todo.shelf, f"{todo.name} is being reproduced by another process; wait for it"):
        if todo.out is not None:
            enter(todo.out.parent, _entry(todo))
        pool.run(_missing(todo), at_once, hear)
        _check_code(todo)
        record = _record(todo, at_once)
        if todo.out is not None:
            now = stamp(todo.path)
            if now.changed or now.blob != todo.stamp.blob:
                raise _changed(todo.path)
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
    stretch: int
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
        todo_here = [task for task in tasks if task.seed == seed and not _is_done(task)]
        first = None
        prelude = _task(todo, seed, None)
        todo.place(seed).mkdir(exist_ok=True)
        if (
            todo_here
            and todo.claim.prelude is not None
            and not (_is_done(prelude) and prelude.prelude.exists())
        ):
            first = add(prelude, _run_prelude, None)
        for task in todo_here:
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
    trial = Trial(
        seed=task.seed,
        folder=task.folder,
        quick=task.quick,
        stretch=task.stretch,
        prelude=prelude,
        log=say,
    )
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


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


# ---- the record


def _record(todo: Plan, at_once: int) -> Record:
    """Return everything that is stored, from the results of the jobs and of the look before."""
    claim = todo.claim
    before = todo.earlier or {"runs": [], "preludes": [], "twice": [], "pairs": {}, "files": {}}
    done = [
        (seed, job, _read_json(_task(todo, seed, job).done))
        for seed in todo.new
        for job in jobs_of(claim)
    ]
    preludes = [
        {"seed": seed, **_read_json(_task(todo, seed, None).done)}
        for seed in dict.fromkeys(task.seed for task in _tasks(todo))
        if claim.prelude
    ]
    twice = [
        {"stretch": stretch, **run}
        for seed in CONVERGENCE
        for job in todo.convergence
        for stretch in (1, TWICE)
        for run in _runs(seed, job, _read_json(_task(todo, seed, job, stretch).done))
    ]
    files = dict(before["files"])
    for run in (*preludes, *(found for _, _, found in done)):
        files |= run.pop("used")
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
            over = verdict.interval(values)
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
        whole = all(_is_done(task) for task in tasks if task.seed == seed)
        prelude = _task(todo, seed, None)
        if todo.claim.prelude and (_is_done(prelude) or (whole and prelude.done.exists())):
            fill(seed, _PRELUDE, {})
    for task in tasks:
        if _is_done(task):
            fill(task.seed, str(task.arm), _read_json(task.done))

    def hear(event: str, job: Job, value: Any) -> None:
        seed, arm = int(job.key[2]), str(job.key[3])
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
