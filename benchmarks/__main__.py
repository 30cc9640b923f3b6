"""Run the rows, print one table, write results/benchmarks/ROW.json.

A row that needs what is not here (a package, a trained model) is listed as not measured, with the
reason.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from benchmarks.measure import circumstances, measured
from diptych.errors import InputError, unknown

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "benchmarks"
_NOT_ROWS = {"__init__", "__main__", "measure", "material", "adapted_step"}


def main(names: list[str], results: Path = RESULTS) -> None:
    there = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in _NOT_ROWS)
    for name in names:
        if name not in there:
            raise unknown("benchmark", name, there)
    table = Table(
        "row", "ours", "theirs", "unit", "ours / theirs", "min - max", "bar", "met", "roofline"
    )
    # Each run probes anew: what `auto` chose on a busy machine must not decide a later run.
    with TemporaryDirectory() as cache, patch.dict(os.environ, XDG_CACHE_HOME=cache):
        for name in names or there:
            try:
                lines = _measured(name, results)
            except (ImportError, InputError) as error:
                print(f"{name}: not measured: {error}", file=sys.stderr)
                table.add_row(name, *["not measured"] + [""] * 7)
                continue
            for line in lines:
                table.add_row(*_cells(line))
                for part, why in line.get("not_measured", {}).items():
                    print(f"{line['what']}: {part} is not measured: {why}", file=sys.stderr)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _measured(name: str, results: Path) -> list[dict[str, Any]]:
    """The lines of a row, which are written to its file."""
    start = time.perf_counter()
    module = importlib.import_module(f"benchmarks.{name}")
    lines = module.run()
    report = {
        "rows": lines,
        "seconds": time.perf_counter() - start,
        **circumstances(*module.PACKAGES),
        "products": measured,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return lines


def _cells(line: dict[str, Any]) -> list[str]:
    low = line.get("ratio_min")
    high = line.get("ratio_max")
    bar = line.get("bar")
    share = line.get("roofline")
    return [
        line["what"],
        f"{line['ours']:.4g}",
        f"{line['theirs']:.4g}",
        line["unit"],
        f"{line['ratio']:.3f}",
        "" if low is None or high is None else f"{low:.3f} - {high:.3f}",
        "" if bar is None else f"<= {bar:.3f}",
        "" if bar is None else "yes" if line["met"] else "NO",
        "" if share is None else f"{share:.0%}",
    ]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"benchmarks: {error}")
