"""`diptych compare`: the same methods over tower sizes and numbers of samples, on one source, with
the same seeds.

OUT/results.jsonl has a line for each cell of the grid (method, size, budget, seed). Each cell runs
in a separate process and is appended when it is done; at a constant rate, the lower budgets of a
method, size and seed are checkpoints of the run of the highest. A second run computes what is missing, so an
interrupted grid can be continued and a finished one extended. OUT/report.html shows the results,
OUT/runs contains the models.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
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

_TEXTS = 64  # captions for the vocabulary of a model that is only built

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
    _check_warmup(wanted, settings)
    if warn is not None and (names := list(unlike(settings))):
        warn(
            f"between the methods differ: {', '.join(names)}; --image-tower, --text-tower, --tokenizer, --embed-dim "
            "and the options of the recipe set one for all"
        )
    statistics.ready()
    at_once = pool.processes(at_once)
    table = _table(out, data, test, suites, common)
    with pool.alone(
        out, f"another process is comparing into {out}; wait for it, or name another --out"
    ):
        # rows of a job that finished after its parent process had ended
        _take(table, sorted(out.glob("runs/*/row.json")))
        _check_files(table, wanted)
        table.methods = list(dict.fromkeys([*table.methods, *(cell.method for cell in wanted)]))
        table.write_head()
        missing = [cell for cell in wanted if not table.has(cell)]
        rows: dict[str, int] = {}
        for cell in wanted:
            rows[cell.row] = rows.get(cell.row, 0) + 1
        board = Board(f"training on {data}, measuring on {test}", rows, chosen(table, None))
        for row in table.rows:
            if _cell(row) in wanted:
                board.known(_cell(row).row, row["metrics"])
        trained = _trained(missing, settings)
        by_name = {cell.folder: cell for cell in trained}

        def hear(event: str, job: pool.Job, value: Any) -> None:
            cell = by_name[str(job)]
            each = [*(replace(cell, budget=budget) for budget in trained[cell]), cell]
            if event == "said":
                board.hear(event, cell.row, f"seed {cell.seed}", value)
            if event == "begun":
                for begun in each:
                    board.hear(event, begun.row, f"seed {begun.seed}", value)
            if event == "done":
                for row in _take(table, [out / "runs" / one.folder / "row.json" for one in each]):
                    board.metrics = chosen(table, None)
                    board.hear(event, _cell(row).row, f"seed {row['seed']}", row["metrics"])

        (out / "runs").mkdir(exist_ok=True)
        with board:
            jobs = [_job(cell, shorter, table) for cell, shorter in trained.items()]
            pool.run(jobs, at_once, hear)
        table.write_head()  # with the differences between the current rows
    return table


def write_report(
    table: Table,
    metrics: Sequence[str] | None = None,
    laws: Callable[[Path, Sequence[str]], Mapping[str, Sequence[str]]] | None = None,
) -> Path:
    """Write OUT/report.html and return its path. `laws` draws those of metrics in the table's folder
    (`lab.scaling`)."""
    from diptych.lab.compare import page  # images and torch, which no job needs at start

    path = table.folder / "report.html"
    shown = chosen(table, metrics)
    html = page.compose(table, shown, laws(table.folder, shown) if laws and table.rows else {})
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
        if cell.method not in settings:
            settings[cell.method] = cells.setting(config)
            _check_streams(cell.method, config, source)
        for suite in suites:
            _check_suite(suite, cards()[suite], cell.method, config)
        shapes = cells.towers(cell.method, cell.size, common.image_tower, common.text_tower)
        same = built.setdefault((cell.method, shapes), cell.size)
        if same != cell.size:
            raise InputError(
                f"the sizes {same:g} and {cell.size:g} round to the same towers of {cell.method}; drop one"
            )
    return settings


def _check_files(table: Table, wanted: Sequence[Cell]) -> None:
    """Raise InputError if the file of a method is no longer the one that the table's rows are of."""
    from diptych.training.config import file_digests

    now = {cell.method: file_digests([cell.method]) for cell in wanted}
    for row in table.rows:
        files = now.get(row["method"], {})
        if any(row.get("files", {}).get(name) != digest for name, digest in files.items()):
            raise InputError(
                f"{row['method']} has changed since rows of {table.folder} were made; name another --out"
            )


def _trained(
    wanted: Sequence[Cell], settings: Mapping[str, Mapping[str, Any]]
) -> dict[Cell, tuple[int, ...]]:
    """Return the cells that are trained, with the lower budgets whose models are kept on the way: at
    a constant rate all below the highest of a method, size and seed, else none."""
    found: dict[Cell, tuple[int, ...]] = {}
    longest: dict[tuple[Any, ...], Cell] = {}
    for cell in sorted(wanted, key=lambda cell: -cell.budget):
        key = (cell.method, cell.size, cell.seed)
        if settings[cell.method]["schedule"] == "constant" and key in longest:
            found[longest[key]] += (cell.budget,)
        else:
            found[cell] = ()
            longest[key] = cell
    return {cell: found[cell] for cell in wanted if cell in found}


def _check_warmup(wanted: Sequence[Cell], settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError for a budget that ends in the warm-up of the run that it is a checkpoint
    of."""
    for cell, shorter in _trained(wanted, settings).items():
        own = settings[cell.method]
        warmup = own["warmup"]
        rising = round(warmup * cell.budget if warmup < 1 else warmup * own["batch size"])
        if shorter and min(shorter) <= rising:
            raise InputError(
                f"at a constant rate the budget {min(shorter):,} of {cell.method} is a checkpoint of the run of "
                f"{cell.budget:,} samples, which warms up for {rising:,}; shorten it with --recipe.warmup STEPS, or "
                "leave the budget out"
            )


def _check_streams(method: str, config: Any, source: Any) -> None:
    """Raise InputError for a method that reads other streams than the one that a comparison has."""
    from diptych.data.tokenizers import build
    from diptych.methods.make import NO_TOWER
    from diptych.training.run import build_method, texts_of

    texts = islice(texts_of({"train": source}), _TEXTS)
    tokenizer = None if config.text_tower == NO_TOWER else build(config.tokenizer, texts)
    stages = build_method(config, tokenizer)[0].stages()
    streams = list(dict.fromkeys(stream for stage in stages for stream in stage.streams))
    if streams == ["train"]:
        return
    sources = " ".join(f"--data {stream}=SOURCE" for stream in streams)
    raise InputError(
        f"{method} reads the streams {', '.join(streams)}, and a comparison has one, train; leave it out, and train it "
        f"with diptych train {parse(method).name} {sources}"
    )


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


def _table(out: Path, data: str, test: str, suites: Sequence[str], common: Common) -> Table:
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
        return table
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something else; name a new or empty folder with --out")
    table = Table(
        folder=out,
        data=data,
        test=test,
        suites=tuple(suites),
        methods=[],
        common=common.plain(),
    )
    out.mkdir(parents=True, exist_ok=True)
    table.write_head()
    return table


def _cell(row: cells.Row) -> Cell:
    return Cell(method=row["method"], size=row["size"], budget=row["budget"], seed=row["seed"])


def _take(table: Table, paths: Sequence[Path]) -> list[cells.Row]:
    """Add the rows that jobs have written and the table lacks, and return them."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    new = [row for row in found if not table.has(_cell(row))]
    for row in new:
        table.add(row)
    return new


def _job(cell: Cell, shorter: tuple[int, ...], table: Table) -> pool.Job:
    folder = table.folder.resolve() / "runs" / cell.folder
    common = Common(**table.common)
    task = Task(
        cell=cell,
        shorter=shorter,
        common=common,
        data=table.data,
        test=table.test,
        suites=table.suites,
        folder=folder,
    )
    output = folder.with_name(f"{cell.folder}.txt")
    return pool.Job(key=(cell.folder,), work=cells.run, arguments=(task,), output=output)
