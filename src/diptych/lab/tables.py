"""A result as tables of text, for the screen and for the docs: its arms, its expectations, and a
summary in one line."""

from collections.abc import Sequence
from typing import Any

from diptych.lab.stored import Record

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Columns and rows."""


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
    """Return each expectation with its outcome, followed by what its breaking ablations kept."""
    rows = []
    for item in record["expect"]:
        seen = f"{item['smallest_effect']:.3g}"
        sign = "" if item["kind"] == "at_most" else "+"  # at_most is no difference: no sign
        mean = f"{item['mean']:{sign}.4g}"
        interval = ends(item["interval"], sign)
        rows.append((item["says"], item["outcome"], mean, interval, seen))
        for ablation in item["ablations"]:
            kept = (
                "no gain to lose" if ablation["kept"] is None else f"keeps {ablation['kept']:.0%}"
            )
            rows.append(
                (
                    f"  broken by {ablation['arm']}",
                    kept,
                    f"{ablation['mean']:+.4g}",
                    ends(ablation["interval"]),
                    "",
                )
            )
    return ("expected", "outcome", "mean", "95 % interval", "smallest effect"), rows


def ends(interval: Sequence[float], sign: str = "+") -> str:
    """Return an interval in brackets, by default with plus signs, for differences.

    >>> ends([-0.01234, 0.5])
    '[-0.01234, +0.5]'
    """
    return f"[{interval[0]:{sign}.4g}, {interval[1]:{sign}.4g}]"


def sentence(record: Record) -> str:
    """Return the verdict, and what it depends on if the table does not show it."""
    if record["verdict"] is None:
        return f"no verdict: a quick run of seed {record['seeds'][0]} alone"
    text = f"verdict: {record['verdict']}"
    floor = record["floor"]
    under = [
        f"{arm} reached {value:.3g}"
        for arm, value in floor["reached"].items()
        if value < floor["value"]
    ]
    if record["verdict"] == "untrained":
        return f"{text} ({floor['metric']} must reach {floor['value']:.3g}; {', '.join(under)})"
    if record["verdict"] == "tie":
        ties = [item for item in record["expect"] if item["outcome"] == "tie"]
        seen = "; ".join(f"{item['says']}: {item['smallest_effect']:.3g}" for item in ties)
        return f"{text} (the smallest effect that this run could have seen: {seen})"
    return text


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
