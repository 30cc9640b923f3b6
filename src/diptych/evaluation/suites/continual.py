"""Continual learning: performance on every task after each stage of learning one task after
another.

R_ij is the measure on task j after stage i; of T tasks, stage i trains on task i.

    average             mean_j R_Tj                                     after the last stage
    forgetting          mean_{j<T} ( max_{i<T} R_ij - R_Tj )            below its best, over all tasks but the last
    backward_transfer   mean_{j<T} ( R_Tj - R_jj )                      what later stages did to it
    forward_transfer    mean_{j>1} ( R_{j-1,j} - b_j )                  above a baseline b, before the task is learnt

The tasks are sources joined by commas, the stages are checkpoints: `earlier` ones and the model
itself, in order. If there is one more checkpoint than tasks, the first is from before the first
stage, and its row is b; otherwise b is chance.

Sources: Lopez-Paz and Ranzato 2017 (transfer); Chaudhry et al. 2018 (forgetting).

Dimensions: S stages, T tasks.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.sample import Source
from diptych.errors import InputError, unknown
from diptych.evaluation import cards, check, evaluate
from diptych.evaluation.embed import Progress
from diptych.evaluation.protocol import data_of, describe, protocol_of

card = {
    "title": "Continual learning: accuracy over stages and tasks, forgetting, transfer",
    "needs": [],  # those of the suite of `measure`, in each task
    "abilities": [],
}

SEVERAL = frozenset(("continual", "rotation", "wise"))
"""Suites that compare several models, which cannot be measured by."""
Checkpoint = Any
"""A model, or a spec of `diptych.load`."""


def ready(
    model: Any,
    source: Source,
    *,
    earlier: Sequence[Checkpoint] = (),
    measure: str = "retrieval.i2t_r1+t2i_r1",
) -> None:
    """Raise InputError if sources and checkpoints do not form a matrix, or a checkpoint cannot be
    loaded."""
    tasks, suite, _ = _asked(source, earlier, measure)
    for task in tasks:
        check(model, task, [suite])
    for each in earlier:
        loaded(each)


def continual(
    model: Any,
    source: Source,
    *,
    earlier: Sequence[Checkpoint] = (),
    measure: str = "retrieval.i2t_r1+t2i_r1",
    role: str | None = None,
    label: str | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `average`, `forgetting`, `backward_transfer` and `forward_transfer`, and the matrix R
    in `by_stage`.

    `measure` is SUITE.NUMBER, or SUITE.NUMBER+NUMBER for the mean of several; `role` and `label`
    are passed to that suite if it accepts them. Also returned: `n` tasks, `chance_average`, `bad`
    samples by reason, and the protocol, which contains that of each task.
    """
    tasks, suite, numbers = _asked(source, earlier, measure)
    stages = [*earlier, model]
    settings = settings_of(suite, role=role, label=label, batch_size=batch_size, exact=exact)
    matrix = np.zeros((len(stages), len(tasks)))
    chance = []
    protocols = []
    bad = {}
    for i, stage in enumerate(stages):
        held = loaded(stage)
        for j, task in enumerate(tasks):
            share = share_of(progress, i * len(tasks) + j, matrix.size)
            results = evaluate(held, task, [suite], progress=share, **settings)[suite]
            matrix[i, j] = mean_of(results, suite, numbers)
            if i == len(stages) - 1:
                chance.append(
                    float(np.mean([results.get(f"chance_{number}", 0.0) for number in numbers]))
                )
                protocols.append(results["protocol"])
                bad |= {
                    f"task {j + 1}: {reason}": count for reason, count in results["bad"].items()
                }
    before = len(stages) - len(tasks)
    found = summary(matrix[before:], matrix[0] if before else np.array(chance))
    names = [f"{j + 1}: {data_of(task)}" for j, task in enumerate(tasks)]
    rows = {
        f"stage {i - before + 1}" if i >= before else "before": dict(zip(names, row, strict=True))
        for i, row in enumerate(matrix.tolist())
    }
    protocol = protocol_of(
        "continual",
        source,
        model,
        exact=exact,
        field=measure,
        rule="stage i has learnt task i",
        options=(
            f"baseline={'checkpoint' if before else 'chance'}",
            *(f"task={each}" for each in protocols),
        ),
    )
    results = {
        "n": len(tasks),
        **found,
        "chance_average": float(np.mean(chance)),
        "by_stage": rows,
        "bad": bad,
    }
    return results | describe(protocol, model)


def summary(matrix: np.ndarray, baseline: np.ndarray | float = 0.0) -> dict[str, float]:
    """Return all measures of a matrix R (T, T), stages by tasks; `baseline` (T,) or one number is
    b.

    With one task there is no forgetting and no transfer. Raises InputError if the matrix is not
    square.

    >>> found = summary(np.array([[0.9, 0.1], [0.5, 0.8]]))
    >>> {name: round(value, 2) for name, value in found.items()}
    {'average': 0.65, 'forgetting': 0.4, 'backward_transfer': -0.4, 'forward_transfer': 0.1}
    """
    r = np.asarray(matrix, np.float64)
    if r.ndim != 2 or r.shape[0] != r.shape[1] or not len(r):
        raise InputError(f"a matrix of stages by tasks is square, this one is {r.shape}")
    found = {"average": float(r[-1].mean())}
    if len(r) > 1:
        own = np.diag(r)[:-1]
        last = r[-1, :-1]
        ahead = np.diag(r, 1) - np.broadcast_to(baseline, len(r))[1:]
        found["forgetting"] = float((r[:-1, :-1].max(0) - last).mean())
        found["backward_transfer"] = float((last - own).mean())
        found["forward_transfer"] = float(ahead.mean())
    return found


def _asked(
    source: Source, earlier: Sequence[Checkpoint], measure: str
) -> tuple[Sequence[Source], str, list[str]]:
    """Return the tasks, the suite that measures each, and its numbers. Raises InputError if they
    form no matrix."""
    tasks: Sequence[Source] = getattr(source, "sources", ())
    if len(tasks) < 2:
        raise InputError(
            f"continual needs a source for each task, joined by commas; {source.name!r} is one"
        )
    if len(earlier) + 1 not in (len(tasks), len(tasks) + 1):
        raise InputError(
            f"continual has {len(tasks)} tasks and {len(earlier) + 1} checkpoints with the model itself; name "
            f"{len(tasks) - 1} earlier ones, or {len(tasks)} with one from before the first task"
        )
    return tasks, *measured_by(measure)


def measured_by(measure: str) -> tuple[str, list[str]]:
    """Parse SUITE.NUMBER+NUMBER to the suite and the numbers. Raises InputError for anything else,
    or a suite of several models."""
    suite, _, numbers = measure.partition(".")
    if suite not in cards() or suite in SEVERAL:
        raise unknown("suite to measure by", suite, set(cards()) - SEVERAL)
    if not numbers:
        raise InputError(f"measure is {measure!r}; write SUITE.NUMBER, such as zeroshot.top1")
    return suite, numbers.split("+")


def settings_of(suite: str, **given: Any) -> dict[str, Any]:
    """Return the given settings that the suite accepts."""
    takes = inspect.signature(
        getattr(import_module(f"diptych.evaluation.suites.{suite}"), suite)
    ).parameters
    return {name: value for name, value in given.items() if name in takes and value is not None}


def mean_of(results: Mapping[str, Any], suite: str, numbers: Sequence[str]) -> float:
    """Return the mean of some numbers of a suite's results. Raises InputError for a number that it
    does not return."""
    for number in numbers:
        if not isinstance(results.get(number), float):
            numeric = [name for name, value in results.items() if isinstance(value, float)]
            raise unknown(f"number of {suite}", number, numeric)
    return float(np.mean([results[number] for number in numbers]))


def loaded(checkpoint: Checkpoint) -> Any:
    """Return a model, loaded if its spec is given."""
    if not isinstance(checkpoint, str | Path):
        return checkpoint
    from diptych.methods.store import load

    return load(checkpoint)


def share_of(progress: Progress | None, at: int, of: int) -> Callable[[int, int], None] | None:
    """Return the progress of evaluation `at` of `of` equal ones."""
    return None if progress is None else lambda done, total: progress(at * total + done, of * total)
