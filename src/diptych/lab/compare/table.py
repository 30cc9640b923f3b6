"""The table of a comparison on disk: OUT/compare.json describes the comparison, OUT/results.jsonl
has a line for each cell."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.errors import InputError, unknown
from diptych.files import write_atomic
from diptych.lab.compare.cell import Cell, Row
from diptych.lab.statistics import Interval, interval
from diptych.results import Tabular

FORMAT = "diptych-compare/1"
_KEY = ("method", "size", "budget", "seed")


@dataclass(kw_only=True)
class Table(Tabular):
    """The existing rows, in the order in which they were added; methods in the order in which they
    were named."""

    folder: Path
    data: str
    test: str
    suites: tuple[str, ...]
    methods: list[str]
    common: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def has(self, cell: Cell) -> bool:
        """Whether a cell is done."""
        return any(all(row[name] == getattr(cell, name) for name in _KEY) for row in self.rows)

    def records(self) -> list[dict[str, Any]]:
        """A row for each method, size and budget: the means of its metrics over the seeds, and ends
        of their intervals."""
        metrics = chosen(self, None)
        return [
            {
                "method": line.method,
                "width": line.size,
                "samples": line.samples,
                "parameters": line.parameters,
                "seeds": line.seeds,
                **{
                    f"{name.split('/', 1)[1]}{end}": value
                    for name, found in line.metrics.items()
                    for end, value in (("", found.mean), (" low", found.low), (" high", found.high))
                },
            }
            for line in lines(self, metrics)
        ]

    @property
    def title(self) -> str:  # type: ignore[override]
        """What was trained on, and measured on."""
        return f"trained on {self.data}, measured on {self.test}"

    def add(self, row: Row) -> None:
        """Add a row, in memory and on disk: the file is written anew and replaces the old one."""
        self.rows.append(row)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        write_atomic(
            self.folder / "results.jsonl", lambda path: path.write_text(text, encoding="utf-8")
        )

    def write_head(self) -> None:
        """Write compare.json."""
        names = ("data", "test", "suites", "methods", "common")
        head = {
            "format": FORMAT,
            **{name: getattr(self, name) for name in names},
            "differs": differences(self),
        }
        text = json.dumps(head, indent=1, ensure_ascii=False) + "\n"
        write_atomic(
            self.folder / "compare.json", lambda path: path.write_text(text, encoding="utf-8")
        )


def is_comparison(folder: Path) -> bool:
    """Whether a folder contains a comparison."""
    return (folder / "compare.json").is_file()


def read(folder: Path) -> Table:
    """Return the table in a folder. Raises InputError if there is none."""
    path = folder / "compare.json"
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        if head.pop("format") != FORMAT:
            raise KeyError("format")
        head.pop("differs", None)  # it follows from the rows
        results = folder / "results.jsonl"
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        return Table(
            folder=folder,
            rows=[json.loads(line) for line in lines],
            **{**head, "suites": tuple(head["suites"])},
        )
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no comparison; begin one with diptych compare METHOD… --out {folder}"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not of a comparison; name another folder") from None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method at one size and budget, over its seeds. The intervals of `metrics` and `gains` (over
    the first method, seed by seed) have zero width for one seed."""

    method: str
    size: float
    budget: int
    samples: float
    gflops: float
    parameters: int
    optimizer: str
    lr: float
    schedule: str
    batch_size: int
    seeds: int
    metrics: Mapping[str, Interval]
    gains: Mapping[str, Interval]


_OF_A_RUN = ("gflops", "parameters", "optimizer", "lr", "schedule", "batch_size")


def lines(table: Table, metrics: Sequence[str]) -> list[Line]:
    """Return the table aggregated over seeds, by size, budget, and method in the order named."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table.rows:
        groups.setdefault(
            (row["size"], row["budget"], table.methods.index(row["method"])), []
        ).append(row)
    found = []
    for (size, budget, number), rows in sorted(groups.items()):
        first = (
            {row["seed"]: row["metrics"] for row in groups.get((size, budget, 0), [])}
            if number
            else {}
        )
        gains = {
            name: [
                row["metrics"][name] - first[row["seed"]][name]
                for row in rows
                if row["seed"] in first
            ]
            for name in metrics
        }
        some = rows[0]
        found.append(
            Line(
                method=some["method"],
                size=size,
                budget=budget,
                samples=sum(row["samples"] for row in rows) / len(rows),
                seeds=len(rows),
                metrics={name: _interval(name, rows) for name in metrics},
                gains={name: interval(values) for name, values in gains.items() if values},
                **{name: some[name] for name in _OF_A_RUN},
            )
        )
    return found


def chosen(table: Table, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metrics to show: those asked for, else for each suite the first that has a chance
    value.

    A name may omit its suite. Raises InputError for an unknown one.
    """
    there = list(table.rows[0]["metrics"]) if table.rows else []
    if asked is None or not there:
        known = [name for name in there if "{}/chance_{}".format(*name.split("/", 1)) in there]
        firsts: dict[str, str] = {}
        for name in known or there:
            firsts.setdefault(name.split("/")[0], name)
        return tuple(firsts.values())
    found = []
    for name in asked:
        full = [each for each in there if name in (each, each.split("/", 1)[1])]
        if not full:
            raise unknown("metric", name, [each.split("/", 1)[1] for each in there])
        found += full
    return tuple(found)


def _interval(metric: str, rows: Sequence[Row]) -> Interval:
    """Return the interval of a metric over seeds; for a share (a metric with a chance from 0 to 1,
    such as recall) it is cut at 0 and 1."""
    found = interval([row["metrics"][metric] for row in rows])
    suite, name = metric.split("/", 1)
    chances = [row["metrics"].get(f"{suite}/chance_{name}", -1) for row in rows]
    if not all(0 <= value <= 1 for value in (*chances, *(row["metrics"][metric] for row in rows))):
        return found
    return Interval(low=max(found.low, 0.0), mean=found.mean, high=min(found.high, 1.0))


def unlike(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return those settings that are not equal for all methods: name -> method -> value.

    >>> unlike({"clip": {"lr": 0.004, "batch size": 128}, "mine": {"lr": 0.002, "batch size": 128}})
    {'lr': {'clip': 0.004, 'mine': 0.002}}
    """
    found = {}
    for name in dict.fromkeys(name for values in settings.values() for name in values):
        values = {method: own.get(name) for method, own in settings.items()}
        first, *others = values.values()
        if any(value != first for value in others):
            found[name] = values
    return found


def differences(table: Table) -> dict[str, dict[str, Any]]:
    """Return what differs between the methods of a table, at its first size: name -> method ->
    value.

    If it is empty, the methods are all that the comparison compares.
    """
    settings: dict[str, dict[str, Any]] = {}
    for method in table.methods:
        rows = [row for row in table.rows if row["method"] == method]
        if rows:
            row = min(rows, key=lambda row: (row["size"] != 1, row["size"]))
            settings[method] = {
                **_setting(row),
                "parameters": row["parameters"],
                "GFLOPs": round(row["gflops"], 4),
            }
    return unlike(settings)


def _setting(row: Row) -> Mapping[str, Any]:
    """Return the settings of a row's run; older rows have fewer."""
    own = {
        name.replace("_", " "): row[name] for name in ("optimizer", "lr", "schedule", "batch_size")
    }
    return row.get("setting", own)


def notes(table: Table) -> list[str]:
    """Return remarks for reading a table: budgets without runs of their own, sample counts that
    differ from the budget, and numbers with another meaning."""
    found = []
    ends: dict[int, set[int]] = {}
    for row in table.rows:
        if "checkpoint_of" in row:
            ends.setdefault(row["checkpoint_of"], set()).add(row["budget"])
    for longest, budgets in sorted(ends.items()):
        some = ", ".join(f"{budget:,}" for budget in sorted(budgets))
        found.append(f"{some} samples: checkpoints of runs of {longest:,} at a constant rate")
    seen: dict[tuple[int, int], list[str]] = {}
    for row in table.rows:
        names = seen.setdefault((row["budget"], round(row["samples"])), [])
        if row["method"] not in names:
            names.append(row["method"])
    for (budget, samples), methods in sorted(seen.items()):
        if budget != samples:
            found.append(
                f"a budget of {budget:,} became {samples:,} samples of {', '.join(methods)}: runs take whole "
                "steps, in each of their stages"
            )
    for side, other in (("text", "images"), ("image", "texts")):
        towers = {row["method"]: row.get(f"{side}_tower") for row in table.rows}
        without = [name for name in table.methods if towers.get(name) == "none"]
        if without and len(without) < len(table.methods):
            found.append(
                f"{', '.join(without)}: no {side} tower, so parameters and GFLOPs are of {other} alone"
            )
    return found
