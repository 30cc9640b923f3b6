"""Progress of many jobs on stderr: a table that fills on a terminal, else a line for each job."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text


class Board:
    """Rows of similar jobs, each with the number that are done, the means of their metrics so far,
    and the running jobs.

    `rows` maps rows to their number of jobs; `metrics` are the columns. Use it as a context
    manager.
    """

    def __init__(
        self,
        title: str,
        rows: Mapping[str, int],
        metrics: Sequence[str],
        console: Console | None = None,
    ):
        self.title = title
        self.metrics = tuple(metrics)
        self._total = dict(rows)
        self._found: dict[str, list[Mapping[str, float]]] = {row: [] for row in rows}
        self._now: dict[tuple[str, str], str] = {}
        self._begun: dict[tuple[str, str], float] = {}
        self._console = console or Console(stderr=True)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, get_renderable=self._table
        )

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def known(self, row: str, metrics: Mapping[str, float]) -> None:
        """Record a job that was done before."""
        self._found[row].append(metrics)

    @property
    def full(self) -> bool:
        """Whether all jobs are done."""
        return all(len(self._found[row]) >= total for row, total in self._total.items())

    def hear(self, event: str, row: str, job: str, value: Any) -> None:
        """Record that a job of a row has begun, has reported a line, or is done with its
        metrics."""
        at = (row, job)
        if event == "begun":
            self._now[at] = ""
            self._begun[at] = time.perf_counter()
        elif event == "said":
            self._now[at] = str(value)
        else:
            self._now.pop(at, None)
            self._found[row].append(value)
        if self._console.is_terminal:
            self._live.refresh()
        elif event == "done":
            done = sum(map(len, self._found.values()))
            total = sum(self._total.values())
            shown = "".join(f", {name} {value[name]:.4g}" for name in self.metrics if name in value)
            seconds = time.perf_counter() - self._begun[at]
            print(
                f"{done} of {total}: {row}, {job}{shown} ({seconds:.0f} s)",
                file=sys.stderr,
                flush=True,
            )

    def _table(self) -> Table:
        table = Table(
            title=self.title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
        )
        table.add_column("")
        table.add_column("done", justify="right")
        for name in self.metrics:
            table.add_column(name, justify="right")
        table.add_column("now", no_wrap=True, overflow="ellipsis")
        for row, total in self._total.items():
            found = self._found[row]
            running = [
                f"{job} {line}".rstrip() for (of, job), line in self._now.items() if of == row
            ]
            means = [_mean([each[name] for each in found if name in each]) for name in self.metrics]
            table.add_row(Text(row), f"{len(found)}/{total}", *means, Text("; ".join(running)))
        return table


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4g}" if values else ""
