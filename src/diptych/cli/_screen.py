"""Output of verbs: JSON or tables on stdout, progress on stderr."""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

PATIENCE = 3.0  # seconds before progress is shown
EVERY = 10.0  # seconds between lines if stderr is no terminal


# control characters, halves of surrogate pairs, and characters that change the text direction
_UNSEEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\u202a-\\u202e\\u2066-\\u2069]"
)


def visible(text: str) -> str:
    """Return the text with control characters escaped as in Python; line breaks and tabs stay.

    Captions, keys and file names come from the data and are not trusted.

    >>> print(visible("a \\x1b[31mred\\x1b[0m cat"))
    a \\x1b[31mred\\x1b[0m cat
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def show(text: str) -> None:
    """Print text on stdout."""
    print(visible(text))


def first_rank() -> bool:
    """Whether this process prints: rank 0, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """Print a line for the user on stderr."""
    if first_rank():
        print(visible(line), file=sys.stderr, flush=True)


def show_json(value: Any) -> None:
    """Print a value as JSON on stdout; numbers that JSON cannot hold become null."""
    text = json.dumps(_strict(value), indent=2, ensure_ascii=False)
    print(
        _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    )  # these characters occur only inside strings


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = ""
) -> None:
    """Print a table on stdout, as wide as the terminal, between two lines of text; numbers are
    right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for at, name in enumerate(map(visible, columns)):
        numbers = all(isinstance(row[at], int | float) or row[at] == "" for row in rows)
        table.add_column(name, justify="right" if numbers and rows else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:  # pipes and files need no line breaks
        console.width = 200
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    print("\n".join([visible(title), "", *lines, *(["", visible(note)] if note else [])]))


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else visible(str(value))


@contextmanager
def progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `report(done, total)` for work longer than PATIENCE: a bar on a terminal, else
    occasional lines."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar: Progress | None = None
    begun = time.perf_counter()
    shown = begun + PATIENCE - EVERY  # when the last line was printed

    def report(done: int, total: int) -> None:
        nonlocal bar, shown
        now = time.perf_counter()
        if not console.is_terminal:
            if now - shown > EVERY:
                shown = now
                say(f"{name}: {done:,} of {total:,}")
        elif now - begun > PATIENCE:
            if bar is None:
                bar = Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("left"),
                    TimeRemainingColumn(),
                    console=console,
                    transient=True,
                )
                bar.add_task(name)
                bar.start()
            bar.update(bar.task_ids[0], completed=done, total=total)

    try:
        yield report
    finally:
        if bar is not None:
            bar.stop()
