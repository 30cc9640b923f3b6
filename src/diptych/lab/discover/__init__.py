"""`diptych discover`: a search for an update rule, after Chen et al. (2023).

1. AdamW's rate is chosen on the proxy task, a short training run.
2. Programs evolve from AdamW at that rate (`evolve`).
3. The funnel: the best programs are trained on larger tasks under other seeds, and the better ones
   go on; AdamW is tuned anew on each (`select`).
4. The winner is simplified: statements without effect are dropped, then those whose removal changes
   the loss by less than its noise.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from diptych import collectives
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.lab.compare.cell import towers
from diptych.lab.discover import select
from diptych.lab.discover.evolve import Settings, search
from diptych.lab.discover.ledger import Ledger, begin
from diptych.lab.discover.select import Bench
from diptych.lab.discover.task import Task
from diptych.lab.pool import alone
from diptych.results import Tabular
from diptych.training import config as configs
from diptych.training.config import RunConfig
from diptych.training.programs.known import adamw
from diptych.training.programs.program import Program, digest, simplified

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True)
class Size:
    """A larger task: `steps` times the proxy's steps, towers `width` times as wide."""

    steps: float
    width: float = 1.0

    def __str__(self) -> str:
        return f"{self.steps:g}x{self.width:g}"


FUNNEL = (Size(3), Size(10, 1.5))


@dataclass(kw_only=True)
class Discovery(Tabular):
    """The result of a search: its program in `path`, the number of programs that were `evaluated`,
    and a row for that program, for each that entered the funnel, and for tuned AdamW.

    A row has the program's statements and its loss on each task, None where it was not trained.
    """

    path: Path
    evaluated: int
    rows: list[dict[str, Any]]

    def records(self) -> list[dict[str, Any]]:
        """The rows."""
        return self.rows

    @property
    def title(self) -> str:  # type: ignore[override]
        """What the numbers are."""
        return f"losses on held-out data, of {self.evaluated:,} programs that were evaluated"


def sizes(text: str) -> tuple[Size, ...]:
    """Read the larger tasks of a funnel. Raises InputError for another form.

    >>> sizes("3,10x1.5")
    (Size(steps=3.0, width=1.0), Size(steps=10.0, width=1.5))
    """
    found = []
    for word in text.split(","):
        match = re.fullmatch(r"(\d+\.?\d*)(?:x(\d+\.?\d*))?", word.strip())
        steps, width = (float(match[1]), float(match[2] or 1)) if match else (0.0, 0.0)
        if not (1 <= steps <= 1e6 and 1 <= width <= 100):
            raise InputError(
                f"--funnel {text!r}: write STEPSxWIDTH for each larger task, as multiples of the search's, "
                "such as 3x1,10x1.5"
            )
        found.append(Size(steps, width))
    if len(set(found)) < len(found):
        raise InputError(f"--funnel {text!r} has a task twice; give each once")
    return tuple(found)


def discover(
    config: RunConfig,
    out: Path,
    *,
    held: str,
    test: str | None = None,
    settings: Settings,
    sizes: Sequence[Size] = FUNNEL,
    resume: bool = False,
    progress: Progress,
) -> Discovery:
    """Search for a program that trains `config` better than AdamW, and write it to OUT/best.py.

    The search measures the loss on the source `held`, the funnel on `test`, by default `held` too.
    Raises InputError, before anything is written, for what does not exist or does not fit.
    """
    proxy = Task(config, open_source(config.data["train"]), open_source(held))
    if collectives.world_size() > 1:
        raise InputError("a search runs in one process; start it without torchrun")
    larger = open_source(test or held)
    tasks = {"proxy": proxy}
    tasks |= {str(size): proxy.another(_enlarged(config, size), larger) for size in sizes}
    described = {
        "task": configs.plain(config),
        "val": held,
        "test": test,
        "funnel": [str(size) for size in sizes],
        **asdict(settings),
    }
    begin(out, described, resume)
    with alone(out, f"another search writes {out}; wait for it, or name another --out"):
        return _search(Bench(tasks, Ledger(out)), out, settings, progress)


def _enlarged(config: RunConfig, size: Size) -> RunConfig:
    assert config.recipe.steps is not None
    recipe = replace(config.recipe, steps=round(size.steps * config.recipe.steps))
    longer = replace(config, recipe=recipe)
    if size.width == 1:
        return longer
    image, text = towers(config.method, size.width, config.image_tower, config.text_tower)
    return replace(longer, image_tower=image, text_tower=text)


def _search(bench: Bench, out: Path, settings: Settings, progress: Progress) -> Discovery:
    recipe = bench.tasks["proxy"].config.recipe
    at_rate = partial(adamw, recipe.betas, recipe.eps)
    with progress("AdamW's rate") as report:
        rate = select.best_rate(
            select.GRID, lambda rate: bench.measure("proxy", at_rate(rate), 0).loss, report
        )
    baseline = at_rate(rate)
    with progress("search") as report:
        members = search(
            baseline,
            lambda program, bar: bench.measure("proxy", program, 0, bar),
            settings,
            report,
        )
    programs = [
        member.program
        for member in members
        if digest(member.program) != digest(baseline) and math.isfinite(member.loss)
    ]
    if not programs:
        raise InputError(
            f"no program of {len(members):,} trains but AdamW; raise --evaluations or --steps"
        )
    with progress("larger tasks") as report:
        larger = select.funnel(bench, programs, report)
    with progress("AdamW on larger tasks") as report:
        tuned = select.tuned(bench, at_rate, rate, report)
    order = sorted(range(len(larger)), key=lambda at: _rank(larger[at]))
    with progress("simplification") as report:
        best = select.shortened(bench, programs[order[0]], report)
    rows = [_row("best.py", best, bench, {task: bench.mean(task, best) for task in tuned})]
    for place, at in enumerate(order, 1):
        rows.append(_row(f"found {place}", simplified(programs[at]), bench, larger[at]))
    rows.append(_row("AdamW, tuned", baseline, bench, tuned))
    found = Discovery(path=out / "best.py", evaluated=len(members), rows=rows)
    _write(found, best)
    return found


def _rank(losses: Mapping[str, float]) -> tuple[int, float]:
    """Sort by how far a program came, then by its loss there."""
    return -len(losses), list(losses.values())[-1]


def _row(name: str, program: Program, bench: Bench, losses: Mapping[str, float]) -> dict[str, Any]:
    proxy = bench.measure("proxy", program, 0).loss
    found = {task: losses.get(task) for task in list(bench.tasks)[1:]}
    return {
        "program": name,
        "statements": len(program.statements),
        "proxy": proxy,
        **found,
        "text": str(program),
    }


def _write(found: Discovery, best: Program) -> None:
    """Write best.py, then results.json."""
    ours = found.rows[0]
    theirs = found.rows[-1]
    tasks = [name for name in ours if name not in ("program", "statements", "text")]
    losses = "; ".join(f"{task} {ours[task]:.4f} (AdamW {theirs[task]:.4f})" for task in tasks)
    text = f"# found by diptych discover; losses: {losses}\n{best}"
    write_atomic(found.path, lambda to: to.write_text(text, encoding="utf-8"))
    rows = [
        {name: None if value == math.inf else value for name, value in row.items()}
        for row in found.rows
    ]
    result = {"evaluated": found.evaluated, "rows": rows}
    text = json.dumps(result, indent=1) + "\n"
    write_atomic(
        found.path.with_name("results.json"), lambda to: to.write_text(text, encoding="utf-8")
    )
