"""Output of verbs: JSON or tables on stdout, progress on stderr."""

import json
import math
import os
import re
import sys
import threading
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


def pace(done: int, left: int, seconds: float) -> str:
    """Return the rate of work and the time that the rest takes at it; "" before there is one.

    >>> pace(640, 360, 10.0), pace(3, 1000, 600.0), pace(0, 5, 1.0)
    ('64/s, 6 s left', '0.005/s, 2 d 7 h left', '')
    """
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1g}" if rate < 0.1 else f"{rate:.1f}"
    return f"{shown}/s, {duration(left / rate)} left"


def duration(seconds: float) -> str:
    """Return a time in its two largest units.

    >>> duration(9.4), duration(75), duration(7260), duration(200_000)
    ('9 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    whole = round(seconds)
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    at = next((at for at, (_, size) in enumerate(units) if whole >= size), len(units) - 1)
    parts = []
    for name, size in units[at : at + 2]:
        parts.append((whole // size, name))
        whole = whole % size
    return " ".join(
        f"{count} {name}" for number, (count, name) in enumerate(parts) if count or not number
    )


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Print a line that tells what is done, if it takes longer than PATIENCE: for work that has no
    steps to count."""
    timer = threading.Timer(PATIENCE, say, [f"{what} …"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `report(done, total)` for work longer than PATIENCE: a bar on a terminal, else
    occasional lines, both with the rate and the time left, on the first rank alone."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )

    console = Console(stderr=True)
    bar: Progress | None = None
    begun = time.perf_counter()
    shown = begun + PATIENCE - EVERY  # when the last line was printed
    first: tuple[float, int] | None = None  # what was done before, a killed run's, has no rate
    whole = 0

    def report(done: int, total: int) -> None:
        nonlocal bar, shown, first, whole
        now = time.perf_counter()
        if not first_rank():
            return
        if first is None or total != whole:  # another part of the work has a rate of its own
            first = (now, done)
            whole = total
        how_fast = pace(done - first[1], total - done, now - first[0])
        if not console.is_terminal:
            if now - shown > EVERY:
                shown = now
                say(f"{name}: {done:,} of {total:,}{how_fast and f' ({how_fast})'}")
        elif now - begun > PATIENCE:
            if bar is None:
                bar = Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[pace]}"),
                    console=console,
                    transient=True,
                )
                bar.add_task(name, pace="")
                bar.start()
            bar.update(bar.task_ids[0], completed=done, total=total, pace=how_fast)

    try:
        yield report
    finally:
        if bar is not None:
            bar.stop()
