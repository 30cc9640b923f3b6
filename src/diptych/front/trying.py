"""Experiments: `diptych.compare` and `diptych.reproduce`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diptych.lab.compare import Common, Table, grid, write_report
from diptych.lab.compare import compare as run_grid
from diptych.lab.plan import plan
from diptych.lab.reproduce import board
from diptych.lab.reproduce import reproduce as run_plan
from diptych.lab.tables import Result
from diptych.methods.registry import name_of
from diptych.spec import as_names


def compare(
    methods: str | Sequence[str],
    *,
    data: str,
    test: str,
    budget: int | Sequence[int],
    out: str | Path,
    sizes: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0, 1, 2),
    suites: str | Sequence[str] = ("retrieval",),
    image_tower: str | None = None,
    text_tower: str | None = None,
    tokenizer: str | None = None,
    embed_dim: int | None = None,
    jobs: int | None = None,
    warn: Callable[[str], None] | None = None,
    **recipe: Any,
) -> Table:
    """Train methods on one source with the same numbers of samples and seeds, and measure them on
    another; a table, and OUT/report.html with it.

    `data` and `test` are specs, since each run is a process of its own; `budget` is the number of
    samples that training reads. Towers, tokenizer and fields of the recipe that are given are those of all methods
    (`lab.compare`). In a script, call it under `if __name__ == "__main__":`. Raises InputError,
    before anything is trained, for what does not exist or does not fit.
    """
    budgets = [budget] if isinstance(budget, int) else budget
    common = Common(
        image_tower=image_tower,
        text_tower=text_tower,
        tokenizer=tokenizer,
        embed_dim=embed_dim,
        recipe=recipe,
    )
    table = run_grid(
        grid([name_of(each) for each in as_names(methods)], sizes, budgets, seeds),
        data=data,
        test=test,
        out=Path(out).expanduser(),
        suites=as_names(suites),
        common=common,
        at_once=jobs,
        warn=warn,
    )
    write_page(table)
    return table


def write_page(table: Table, metrics: Sequence[str] | None = None) -> Path:
    """Write the page of a comparison, with the laws of its methods, and return its path."""
    from diptych.lab.scaling.report import cards_of_comparison  # scipy

    return write_report(table, metrics, cards_of_comparison)


def reproduce(
    name: str | Path,
    *,
    block: str = "claim",
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    jobs: int | None = None,
    out: str | Path | None = None,
) -> Result:
    """Try a paper's claim on this machine, and judge it (`lab.plan.plan`, `lab.reproduce`).

    `name` is that of its method, or a file. With `quick` one seed is run, in three minutes at the
    most, without a verdict. In a script, call it under `if __name__ == "__main__":`.
    """
    folder = None if out is None else Path(out).expanduser()
    todo = plan(str(name), block=block, seeds=seeds, quick=quick, out=folder)
    table, hear = board(todo)
    with table:
        return Result(run_plan(todo, at_once=jobs, hear=hear))
