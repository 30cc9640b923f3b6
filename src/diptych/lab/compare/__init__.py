"""`diptych compare`: the same methods over tower sizes and numbers of samples, on one source, with
the same seeds.

OUT/results.jsonl has a line for each cell of the grid (method, size, budget, seed). Each cell runs
in a separate process and is appended when it is done. A second run computes what is missing, so an
interrupted grid can be continued and a finished one extended. OUT/report.html shows the results,
OUT/runs contains the models.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.lab import pool, statistics
from diptych.lab.compare import cell as cells
from diptych.lab.compare.cell import Cell, Common, Task
from diptych.lab.compare.table import (
    Table,
    chosen,
    differences,
    is_comparison,
    lines,
    notes,
    read,
    unlike,
)
from diptych.lab.live import Board
from diptych.spec import parse

__all__ = [
    "Cell",
    "Common",
    "Table",
    "chosen",
    "compare",
    "differences",
    "grid",
    "is_comparison",
    "lines",
    "notes",
    "read",
    "write_report",
]

grid = cells.grid


def compare(
    wanted: Sequence[Cell],
    *,
    data: str,
    test: str,
    out: Path,
    suites: Sequence[str] = ("retrieval",),
    common: Common = Common(),
    at_once: int | None = None,
    warn: Callable[[str], None] | None = None,
) -> Table:
    """Train and measure the cells that the table in `out` lacks, and return the table.

    The methods are trained on `data` and measured on `test`, by `suites`; `common` overrides the
    presets of all methods. `warn` receives a line, before anything is trained, with what still
    differs between the methods. Raises InputError, before anything is trained, for anything that
    does not exist or does not fit, and if `out` contains another comparison.
    """
    settings = _check(wanted, data, test, suites, common)
    if warn is not None and (names := list(unlike(settings))):
        warn(
            f"between the methods differ: {', '.join(names)}; --image-tower, --text-tower, --tokenizer, --embed-dim "
            "and the options of the recipe set one for all"
        )
    statistics.ready()
    at_once = pool.processes(at_once)
    table = _table(out, data, test, suites, [cell.method for cell in wanted], common)
    with pool.alone(
        out, f"another process is comparing into {out}; wait for it, or name another --out"
    ):
        for left in sorted(
            out.glob("runs/*/row.json")
        ):  # from a job that finished after its parent process had ended
            row = json.loads(left.read_text(encoding="utf-8"))
            if not table.has(_cell(row)):
                table.add(row)
        missing = [cell for cell in wanted if not table.has(cell)]
        rows: dict[str, int] = {}
        for cell in wanted:
            rows[cell.row] = rows.get(cell.row, 0) + 1
        board = Board(f"training on {data}, measuring on {test}", rows, chosen(table, None))
        for row in table.rows:
            if _cell(row) in wanted:
                board.known(_cell(row).row, row["metrics"])
        by_name = {cell.folder: cell for cell in missing}

        def hear(event: str, job: pool.Job, value: Any) -> None:
            cell = by_name[str(job)]
            if event == "done":
                table.add(value)
                board.metrics = chosen(table, None)
            board.hear(
                event, cell.row, f"seed {cell.seed}", value["metrics"] if event == "done" else value
            )

        (out / "runs").mkdir(exist_ok=True)
        with board:
            pool.run([_job(cell, table) for cell in missing], at_once, hear)
        table.write_head()  # with the differences between the current rows
    return table


def write_report(table: Table, metrics: Sequence[str] | None = None) -> Path:
    """Write OUT/report.html and return its path."""
    from diptych.lab.compare import page  # images and torch, which no job needs at start

    path = table.folder / "report.html"
    html = page.compose(table, chosen(table, metrics))
    write_atomic(path, lambda to: to.write_text(html, encoding="utf-8"))
    return path


def _check(
    wanted: Sequence[Cell], data: str, test: str, suites: Sequence[str], common: Common
) -> dict[str, dict[str, Any]]:
    """Return the settings of the methods at the first size. Raises InputError for what a job would
    reject, as far as it is known without training."""
    from diptych.data.sources import open_source
    from diptych.errors import unknown
    from diptych.evaluation import cards

    for suite in suites:
        if suite not in cards():
            raise unknown("suite", suite, cards())
    source = open_source(data)
    open_source(test)
    built: dict[tuple[str, tuple[str, str]], float] = {}
    settings: dict[str, dict[str, Any]] = {}
    for cell in wanted:
        config = cells.resolved(cell, data, len(source), common)
        settings.setdefault(cell.method, cells.setting(config))
        for suite in suites:
            _check_suite(suite, cards()[suite], cell.method, config)
        shapes = cells.towers(cell.method, cell.size, common.image_tower, common.text_tower)
        same = built.setdefault((cell.method, shapes), cell.size)
        if same != cell.size:
            raise InputError(
                f"the sizes {same:g} and {cell.size:g} round to the same towers of {cell.method}; drop one"
            )
    return settings


def _check_suite(suite: str, card: Mapping[str, Any], method: str, config: Any) -> None:
    """Raise InputError if a suite needs a tower that a method does not have."""
    from diptych.methods.make import NO_TOWER
    from diptych.methods.registry import find

    asked = set(card["abilities"])
    embeds = config.embed_dim > 0
    if config.text_tower == NO_TOWER and "embed_texts" in asked:
        raise InputError(
            f"{method} has no text tower, so {suite} cannot measure it; name a suite of images alone "
            "with --suite, such as probe"
        )
    images = asked & {"embed_images", "represent", "preprocess"}
    if not embeds and (images or "embed_texts" in asked):
        raise InputError(
            f"{method} is a language model, so {suite} cannot measure it; name a suite of language models "
            "with --suite, such as perplexity"
        )
    if config.image_tower == NO_TOWER and images:
        raise InputError(
            f"{method} has no image tower, so {suite} cannot measure it; name a suite of texts alone "
            "with --suite, such as sts"
        )
    if not embeds or not asked & {"log_prob", "generate"}:
        return
    captions = "generate" in find(parse(method).name).notes.get("abilities", {})
    if not captions or "preprocess" not in asked:
        what = "writes about images alone" if captions else "writes no texts"
        raise InputError(
            f"{method} {what}, so {suite} cannot measure it; name another suite with --suite, "
            "such as retrieval"
        )


def _table(
    out: Path, data: str, test: str, suites: Sequence[str], methods: Sequence[str], common: Common
) -> Table:
    """Return the table in `out`, started if there is none."""
    if is_comparison(out):
        table = read(out)
        for name, value in (
            ("data", data),
            ("test", test),
            ("suites", tuple(suites)),
            ("common", common.plain()),
        ):
            if (old := getattr(table, name)) != value:
                raise InputError(
                    f"{out} compares with {name} {old}, not {value}; name another --out"
                )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something else; name a new or empty folder with --out")
    else:
        table = Table(
            folder=out,
            data=data,
            test=test,
            suites=tuple(suites),
            methods=[],
            common=common.plain(),
        )
    table.methods = list(dict.fromkeys([*table.methods, *methods]))
    out.mkdir(parents=True, exist_ok=True)
    table.write_head()
    return table


def _cell(row: cells.Row) -> Cell:
    return Cell(method=row["method"], size=row["size"], budget=row["budget"], seed=row["seed"])


def _job(cell: Cell, table: Table) -> pool.Job:
    folder = table.folder.resolve() / "runs" / cell.folder
    common = Common(**table.common)
    task = Task(
        cell=cell,
        common=common,
        data=table.data,
        test=table.test,
        suites=table.suites,
        folder=folder,
    )
    output = folder.with_name(f"{cell.folder}.txt")
    return pool.Job(key=(cell.folder,), work=cells.run, arguments=(task,), output=output)
