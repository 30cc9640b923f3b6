"""Run the benchmarks, print one table, write results/benchmarks/NAME.json."""

import importlib
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import circumstances
from diptych.errors import InputError, unknown

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "benchmarks"
_NOT_BENCHMARKS = {"__init__", "__main__", "measure"}


def main(names: list[str]) -> None:
    there = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in _NOT_BENCHMARKS)
    for name in names:
        if name not in there:
            raise unknown("benchmark", name, there)
    table = Table("benchmark", "ours", "theirs", "ours / theirs", "unit")
    for name in names or there:
        module = importlib.import_module(f"benchmarks.{name}")
        rows = module.run()
        RESULTS.mkdir(parents=True, exist_ok=True)
        report = {"rows": rows, **circumstances(*module.PACKAGES)}
        (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        for row in rows:
            table.add_row(row["what"], f"{row['ours']:.4g}", f"{row['theirs']:.4g}", f"{row['ratio']:.2f}", row["unit"])
    Console().print(table)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"benchmarks: {error}")
