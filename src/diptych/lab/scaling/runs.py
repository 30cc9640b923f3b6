"""Training runs to which laws are fitted: from a table, from what `diptych compare` has made, or from
the validations of runs.

Dimensions: R runs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.sample import BadSample
from diptych.data.sources.rows import open_rows
from diptych.errors import InputError, unknown
from diptych.lab.compare.table import chosen, is_comparison, read
from diptych.spec import parse

COMPUTE = ("gflops_total", "gflops", "compute")
SAMPLES = ("total_samples_seen", "samples_seen", "samples")
"""The columns of compute, in GFLOPs of all samples seen, and of samples, where none is named."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """Runs of one procedure, measured by one metric: compute in GFLOPs (R,), samples seen (R,), and
    the error (R,), which is 1 - metric for a metric of which more is better."""

    name: str
    metric: str
    compute: np.ndarray
    samples: np.ndarray
    error: np.ndarray

    def __len__(self) -> int:
        return len(self.compute)

    def where(self, kept: np.ndarray) -> "Runs":
        """Those that a mask (R,) keeps."""
        return Runs(
            name=self.name,
            metric=self.metric,
            compute=self.compute[kept],
            samples=self.samples[kept],
            error=self.error[kept],
        )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which runs are used: those of at least `min_compute` GFLOPs and at most `max_samples` samples
    (the paper: 1e6 and 1e10, beyond which its data repeat), without failures: an error of at least
    `failed[0]` above `failed[1]` GFLOPs (.7 and 1e11)."""

    min_compute: float = 0.0
    max_samples: float = math.inf
    failed: tuple[float, float] = (math.inf, math.inf)

    def of(self, runs: Runs) -> Runs:
        """The runs within them."""
        error, compute = self.failed
        failure = (runs.error >= error) & (runs.compute > compute)
        return runs.where(
            (runs.compute >= self.min_compute) & (runs.samples <= self.max_samples) & ~failure
        )


def read_runs(
    paths: str | Path | Sequence[str | Path],
    *,
    metrics: Sequence[str] = (),
    losses: Sequence[str] = (),
    by: Sequence[str] = (),
    compute: str | None = None,
    samples: str | None = None,
) -> list[Runs]:
    """Read a table of runs (.csv, .tsv, .parquet, …), the folders of comparisons, or the folders of
    runs with validations; a row is a run, or one of its validations (`rows_of_run`).

    `metrics` are columns of shares of which more is better, `losses` columns that are errors
    already; a run whose cell is empty is left out of that metric. `by` are the columns that say
    which runs belong together, by default all runs of a table do, and elsewhere those of a method (and
    of a comparison, of several). Rows of comparisons have the columns of results.jsonl, and `name`, the
    method without its options, `data`, `test` and `folder`.
    `compute` and `samples` name their columns.

    Raises InputError for a missing file or column, for a cell that is no number, a metric outside of
    [0, 1], and compute or samples that are not above 0.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found = [Path(path).expanduser() for path in given]
    path = found[0]
    if all((each / "config.yaml").is_file() for each in found):
        rows = [row for each in found for row in rows_of_run(each)]
        columns: Sequence[str] = list(dict.fromkeys(name for row in rows for name in row))
        by = by or ("method",)
    elif all(map(is_comparison, found)):
        rows, metrics, losses = _of_comparisons(found, metrics, losses)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        by = by or (("method",) if len(found) == 1 else ("method", "folder"))
    elif len(found) > 1:
        raise InputError(
            f"{found[1]}: several paths are folders of runs, or of diptych compare; name one table alone"
        )
    else:
        columns, rows = _of_table(path)
    if not metrics and not losses:
        raise InputError(f"{path}: name what to fit, the columns of metrics or losses")
    named = {
        "compute": _column(path, columns, compute, COMPUTE),
        "samples": _column(path, columns, samples, SAMPLES),
    }
    for name in (*metrics, *losses, *by):
        if name not in columns:
            raise InputError(f"{path}: {unknown('column', name, columns)}")
    groups: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, row in enumerate(rows, 1):
        groups.setdefault(", ".join(str(row.get(name, "")) for name in by), []).append(
            (number, row)
        )
    return [
        _runs(path, name, metric, metric in losses, members, named)
        for metric in (*metrics, *losses)
        for name, members in sorted(groups.items())
    ]


def rows_of_run(run: Path) -> list[dict[str, Any]]:
    """The validations of a run, a row each: its method and name, the step, samples seen and GFLOPs up
    to there, and the scores.

    At a constant rate each validation after the warm-up counts, since the run might have ended
    there; by any other schedule the last one alone. Raises InputError for a run without
    validations.
    """
    from diptych.lab.compare.cell import gflops  # torch
    from diptych.methods.store import load
    from diptych.training.config import read as read_config
    from diptych.training.log import read_log

    config = read_config(run / "config.yaml")
    recipe = config["recipe"]
    log = read_log(run / "metrics.jsonl")
    steps = max((line["done"] + 1 for line in log), default=0)
    warmup = recipe.get("warmup", 0.0)
    rising = round(warmup * steps) if warmup < 1 else int(warmup)
    validations = [line for line in log if line.get("event") == "validation"]
    if recipe.get("schedule") == "constant":
        kept = [line for line in validations if line["done"] + 1 > rising]
    else:
        kept = validations[-1:]
    if not kept:
        raise InputError(f"{run}: no validation after its warm-up; train with --val SOURCE")
    each = gflops(load(run))["weight_gflops"] * recipe["batch_size"]
    return [
        {
            "method": config["method"],
            "data": ", ".join(config.get("data", {}).values()),
            "run": run.name,
            "step": line["done"] + 1,
            "samples_seen": (line["done"] + 1) * recipe["batch_size"],
            "gflops_total": (line["done"] + 1) * each,
            **{
                name.removeprefix("val/"): value
                for name, value in line.items()
                if name.startswith("val/")
            },
        }
        for line in kept
    ]


def _of_comparisons(
    paths: Sequence[Path], metrics: Sequence[str], losses: Sequence[str]
) -> tuple[list[dict[str, Any]], Sequence[str], Sequence[str]]:
    """The rows of comparisons, with their metrics as columns, and those that are asked for by their
    full names."""
    rows: list[dict[str, Any]] = []
    asked: dict[str, None] = {}
    as_losses: dict[str, None] = {}
    names = [path.name for path in paths]
    for path in paths:
        table = read(path)
        if not table.rows:
            raise InputError(f"{path}: no run is done; go on with diptych compare")
        if metrics or not losses:
            asked |= dict.fromkeys(chosen(table, metrics or None))
        if losses:
            as_losses |= dict.fromkeys(chosen(table, losses))
        folder = path.name if names.count(path.name) == 1 else str(path)
        of_table = {"data": table.data, "test": table.test, "folder": folder}
        # older tables have the other compute alone
        compute = "weight_gflops" if all("weight_gflops" in row for row in table.rows) else "gflops"
        rows += [
            {
                **row,
                **row["metrics"],
                **of_table,
                "name": parse(row["method"]).name,
                "gflops_total": row[compute] * row["samples"],
            }
            for row in table.rows
        ]
    return rows, tuple(asked), tuple(as_losses)


def _of_table(path: Path) -> tuple[Sequence[str], list[dict[str, Any]]]:
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such table or comparison; name a .csv file of runs, or the folder of diptych compare"
        )
    table = open_rows(str(path))
    rows = []
    for number, row in enumerate(table.scan(), 1):
        if isinstance(row, BadSample):
            raise InputError(f"{path}: row {number} cannot be read ({row}); correct it")
        rows.append(dict(row))
    if not rows:
        raise InputError(f"{path}: it has no rows; a row is a run")
    return table.columns, rows


def _column(path: Path, columns: Sequence[str], asked: str | None, known: Sequence[str]) -> str:
    if asked is not None:
        if asked not in columns:
            raise InputError(f"{path}: {unknown('column', asked, columns)}")
        return asked
    found = next((name for name in known if name in columns), None)
    if found is None:
        raise InputError(f"{path}: no column {' or '.join(known)}; name the one that holds it")
    return found


def _runs(
    path: Path,
    name: str,
    metric: str,
    loss: bool,
    members: Sequence[tuple[int, Mapping[str, Any]]],
    columns: Mapping[str, str],
) -> Runs:
    values: dict[str, list[float]] = {"compute": [], "samples": [], "error": []}
    for number, row in members:
        if row.get(metric) in (None, ""):
            continue
        place = f"{path}: row {number}"
        value = _number(row[metric], f"{place}, {metric}")
        if not loss and not 0 <= value <= 1:
            raise InputError(
                f"{place}, {metric}: {value:g} is no share; name a column that is an error or a loss as a loss"
            )
        values["error"].append(value if loss else 1 - value)
        for what, column in columns.items():
            found = _number(row.get(column), f"{place}, {column}")
            if found <= 0:
                raise InputError(f"{place}, {column}: {found:g} is not above 0; leave the run out")
            values[what].append(found)
    arrays = {what: np.array(found) for what, found in values.items()}
    return Runs(name=name or "all", metric=metric, **arrays)


def _number(value: Any, place: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{place}: {value!r} is no number; correct it, or leave it empty")
    return found
