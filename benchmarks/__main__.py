"""Run the rows, print one table, write results/benchmarks/ROW.json.

A row that needs what is not here (a package, a trained model) is listed as not measured, with the
reason.
"""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import circumstances
from diptych.errors import InputError, unknown

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "benchmarks"
_NOT_ROWS = {"__init__", "__main__", "measure", "material"}


def main(names: list[str], results: Path = RESULTS) -> None:
    there = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in _NOT_ROWS)
    for name in names:
        if name not in there:
            raise unknown("benchmark", name, there)
    table = Table(
        "row", "ours", "theirs", "unit", "ours / theirs", "min - max", "bar", "met", "roofline"
    )
    for name in names or there:
        start = time.perf_counter()
        try:
            module = importlib.import_module(f"benchmarks.{name}")
            lines = module.run()
        except (ImportError, InputError) as error:
            print(f"{name}: not measured: {error}", file=sys.stderr)
            table.add_row(name, *["not measured"] + [""] * 7)
            continue
        report = {
            "rows": lines,
            "seconds": time.perf_counter() - start,
            **circumstances(*module.PACKAGES),
        }
        results.mkdir(parents=True, exist_ok=True)
        (results / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        for line in lines:
            table.add_row(*_cells(line))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


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
