"""A comparison as one HTML page: the table over seeds, and each metric against samples and against
GFLOPs."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from diptych.lab import report
from diptych.lab.compare.table import Line, Table, differences, lines, notes
from diptych.lab.statistics import Interval


def columns(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the head of the table."""
    names = [name.split("/", 1)[1] for name in metrics]
    gains = [f"{name}, over the first" for name in names]
    return (
        "method",
        "width",
        "samples",
        "GFLOPs",
        "parameters",
        "optimizer",
        "lr",
        "schedule",
        "batch",
        "seeds",
        *names,
        *gains,
    )


def cells(line: Line, metrics: Sequence[str]) -> tuple[str, ...]:
    """Return a line of the table: means with half the width of their 95 % interval; gains are
    paired seed by seed."""
    return (
        line.method,
        f"x {line.size:g}",
        f"{line.samples:,.0f}",
        f"{line.gflops:.3g}",
        f"{line.parameters:,}",
        line.optimizer,
        f"{line.lr:g}",
        line.schedule,
        f"{line.batch_size:,}",
        str(line.seeds),
        *(_spread(line.metrics[name], "", line.seeds) for name in metrics),
        *(
            _spread(line.gains[name], "+", line.seeds) if name in line.gains else ""
            for name in metrics
        ),
    )


def _spread(found: Interval, sign: str, seeds: int) -> str:
    if seeds < 2:
        return f"{found.mean:{sign}.4f}"
    even = abs(found.high + found.low - 2 * found.mean) < 1e-9  # not if it is cut at 0 or 1
    return f"{found.mean:{sign}.4f}" + (
        f" ± {found.half:.2g}" if even else f" [{found.low:.2g}, {found.high:.2g}]"
    )


def compose(
    table: Table, metrics: Sequence[str], laws: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> str:
    """The whole page; `laws` are drawings of the laws of a metric."""
    found = lines(table, metrics)
    seeds = sorted({row["seed"] for row in table.rows})
    lead = (
        f"{', '.join(table.methods)}: trained on {table.data}, measured on {table.test}, under the seeds "
        f"{', '.join(map(str, seeds))}."
    )
    if not any("checkpoint_of" in row for row in table.rows):
        lead += " Each point is from runs of its own, each to the end of its schedule."
    hours = sum(row["cpu_seconds"] for row in table.rows) / 3600
    parts = [
        report.figures(
            (str(len(table.methods)), "methods"),
            (str(len(table.rows)), "runs"),
            (f"{hours:.2f}", "CPU hours"),
        ),
        _table(table, found, metrics),
        _differences(table),
        *(_charts(found, name) for name in metrics),
        *(report.section(f"Laws of {name.split('/', 1)[1]}", _LAWS, *laws[name]) for name in laws),
        _circumstances(table),
    ]
    return report.page("Methods compared", lead, *parts)


_LAWS = (
    "The error, 1 less the metric, over the compute of all samples seen: A C^a of the methods with at least three runs "
    "that are each better than all with less compute (marks). A line is dashed beyond the largest run. Intervals are "
    "95 %, of the fit alone; `diptych scaling` has those of resampled runs, and other forms."
)


def _table(table: Table, found: Sequence[Line], metrics: Sequence[str]) -> str:
    note = (
        "Means over seeds ± half the 95 % t-interval, or [its ends] where it is cut at 0 or 1, as of a recall; none is "
        f"given for one seed. Differences are from {table.methods[0]}, paired seed by seed. GFLOPs are those of one "
        "pair, forward, a text filling its context."
    )
    note = " ".join([note, *(f"{line[0].upper()}{line[1:]}." for line in notes(table))])
    return report.section(
        "Results", note, report.table(columns(metrics), [cells(line, metrics) for line in found])
    )


def differing(table: Table) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return what differs between the methods, as a table: its head and its rows."""
    found = differences(table)
    there = [
        method for method in table.methods if any(row["method"] == method for row in table.rows)
    ]
    return ("what", *there), [
        (name, *(_plain(values[method]) for method in there)) for name, values in found.items()
    ]


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _differences(table: Table) -> str:
    head, rows = differing(table)
    if not rows:
        return report.section(
            "What differs", "Nothing but the method: towers, recipe and data are the same."
        )
    note = "Beside the method, at the first size: a difference of the results may come from these as well."
    return report.section("What differs", note, report.table(head, rows))


def _charts(found: Sequence[Line], metric: str) -> str:
    """Plot a metric against samples at each size, and against GFLOPs at each budget if there are
    several sizes."""
    name = metric.split("/", 1)[1]
    drawn = []
    for size in dict.fromkeys(line.size for line in found):
        same = [line for line in found if line.size == size]
        x = f"samples seen (width x {size:g})"
        drawn.append(report.lines(_series(same, metric, lambda line: line.samples), x=x, y=name))
    if len({line.size for line in found}) > 1:
        for budget in dict.fromkeys(line.budget for line in found):
            same = [line for line in found if line.budget == budget]
            x = f"forward GFLOPs of a pair ({budget:,} samples)"
            drawn.append(report.lines(_series(same, metric, lambda line: line.gflops), x=x, y=name))
    note = f"{metric}: one line a method, bars are 95 % intervals over seeds, x is logarithmic."
    return report.section(name, note, *drawn)


def _series(found: Sequence[Line], metric: str, x: Callable[[Line], float]) -> list[report.Line]:
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    for line in found:
        over = line.metrics[metric]
        series.setdefault(line.method, []).append((x(line), over.mean, over.low, over.high))
    return [report.Line(name=method, points=sorted(points)) for method, points in series.items()]


def _circumstances(table: Table) -> str:
    """Return the other conditions of the numbers, with all their values if they differ between
    runs."""
    rows = [
        (title, ", ".join(sorted({str(row[name]) for row in table.rows})))
        for title, name in (("processor", "processor"), ("code", "code"))
    ]
    protocols = sorted(
        {f"{suite} {number}" for row in table.rows for suite, number in row["protocols"].items()}
    )
    rows.append(("protocol", ", ".join(protocols)))
    note = "Several values in a line: the runs differ in it. The code is a digest of all that a run could "
    note += "import, and after a + of the files of methods given as FILE.py."
    return report.section("Circumstances", note, report.table(("what", "which"), rows))
