"""A result as tables of text, for the screen and for the docs: its arms, its expectations, and a
summary in one line."""

from collections.abc import Sequence
from html import escape
from typing import Any

from diptych.lab.stored import EARLIER, Record
from diptych.results import Tabular, html_table

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Columns and rows."""


class Result(Tabular, dict[str, Any]):
    """The record of a claim that was tried."""

    def records(self) -> list[dict[str, str]]:
        """A row for each arm: the mean of each metric, with half the width of its interval."""
        return _records(arms(self))

    def _repr_html_(self) -> str:
        shown = html_table(self["question"], self.records())
        if self["verdict"] is not None:
            shown += html_table("Expected", _records(expectations(self)))
        return f"{shown}<p>{escape(sentence(self))}</p>"


def _records(table: Table) -> list[dict[str, str]]:
    columns, rows = table
    return [dict(zip(columns, row, strict=True)) for row in rows]


def arms(record: Record) -> Table:
    """Return each arm's mean of each shown metric over the seeds, with half the width of its 95 %
    interval."""
    metrics = record["table"]
    rows = [
        (arm, *(_spread(found.get(name)) for name in metrics))
        for arm, found in record["arms"].items()
    ]
    return ("arm", *metrics), rows


def expectations(record: Record) -> Table:
    """Return the expectations with their outcomes: the headline, its mechanism, the checks."""
    rows = [_row("headline", item) for item in record["headline"]]
    for ablation in (record["mechanism"] or {"ablations": []})["ablations"]:
        kept = f"keeps {ablation['kept']:.0%} of the gain"
        found = ablation["interval"]
        rows.append(
            (
                "mechanism",
                f"half the gain less that of {ablation['arm']}",
                kept,
                "",
                "" if found is None else ends(found),
                "",
            )
        )
    rows += [_row("check", item) for item in record["checks"]]
    return ("", "expected", "outcome", "mean", "interval", "seen with 80 % power"), rows


def _row(kind: str, item: dict[str, Any]) -> tuple[str, ...]:
    sign = "" if item["kind"] == "at_most" else "+"  # at_most is no difference: no sign
    found = item["interval"]
    seen = item["smallest_effect"]
    return (
        kind,
        item["says"],
        item["outcome"],
        f"{item['mean']:{sign}.4g}",
        "" if found is None else ends(found, sign),
        "" if seen is None else f"{seen:.3g}",
    )


def ends(interval: Sequence[float], sign: str = "+") -> str:
    """Return an interval in brackets, by default with plus signs, for differences.

    >>> ends([-0.01234, 0.5])
    '[-0.01234, +0.5]'
    """
    return f"[{interval[0]:{sign}.4g}, {interval[1]:{sign}.4g}]"


def sentence(record: Record) -> str:
    """Return the verdict, the mechanism's outcome, and what would decide what is open.

    A result of the earlier rule says so: its verdict is not comparable.
    """
    if record["verdict"] is None:
        return f"no verdict: a quick run of seed {record['seeds'][0]} alone"
    if record["format"] == EARLIER:
        return f"{record['verdict']}, by the earlier rule, and not comparable"
    text = f"{record['verdict']} after {record['decided_at']} seeds"
    if record["verdict"] == "untrained":
        return f"{text} ({'; '.join(record['reasons'])})"
    mechanism = record["mechanism"]
    if mechanism is not None:
        text += f", mechanism {mechanism['outcome']} after {mechanism['seeds']}"
    if record["verdict"] == "undecided":
        seeds = record["would_decide"]
        text += f"; {seeds} seeds would decide it" if seeds else "; no number of seeds would do"
    if record["open_look"] is not None:
        text += f"; the look at {record['open_look']} seeds is due"
    return text


def short(record: Record) -> str:
    """Return the verdict and the mechanism's outcome in a few words.

    >>> short({"format": "diptych-claim/2", "verdict": "holds", "mechanism": {"outcome": "shown"}})
    'holds, mechanism shown'
    """
    if record["format"] == EARLIER:
        return f"{record['verdict']} (earlier rule)"
    mechanism = record["mechanism"]
    shown = "" if mechanism is None else f", mechanism {mechanism['outcome']}"
    return f"{record['verdict']}{shown}"


def markdown(table: Table) -> list[str]:
    """Return a table as lines of Markdown.

    >>> markdown((("a", "b"), [("1", "x|y")]))
    ['| a | b |', '|---|---|', '| 1 | x\\\\|y |']
    """
    columns, rows = table

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(columns), "|" + "---|" * len(columns), *map(line, rows)]


def _spread(found: Any) -> str:
    if found is None:
        return ""
    if found["interval"] is None:
        return f"{found['mean']:.4g}"
    low, high = found["interval"]
    return f"{found['mean']:.4g} ± {(high - low) / 2:.2g}"
