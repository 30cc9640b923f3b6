"""The record of a search: DIR/discover.json has its settings, DIR/runs.jsonl a line for each
training run.

A search depends on its settings and on the measured losses alone. One that was stopped therefore
runs again from its beginning, and takes from the record what was measured before.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diptych.errors import InputError
from diptych.files import read_json, sync, whole_lines, write_atomic
from diptych.lab.discover.evolve import Measured
from diptych.training.programs.program import Program, digest

FORMAT = "diptych-discover/1"
_MAY_DIFFER = {"evaluations"}  # of the settings, when a search is resumed


class Ledger:
    """The runs in a folder by (task, seed, hash of the program)."""

    def __init__(self, folder: Path):
        self.path = folder / "runs.jsonl"
        self.runs: dict[tuple[str, int, str], Measured] = {}
        for number, line in enumerate(whole_lines(self.path), 1):
            try:
                row = json.loads(line)
                key = (row["task"], row["seed"], row["hash"])
                self.runs[key] = Measured(_number(row["loss"]), _number(row["early"]))
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{self.path}: line {number} is no run; remove that line to run it again"
                ) from None

    def measured(
        self, task: str, seed: int, program: Program, run: Callable[[], Measured]
    ) -> Measured:
        """Return the losses of a run; it is started if the record does not have it."""
        key = (task, seed, digest(program))
        if key not in self.runs:
            begun = time.perf_counter()
            found = run()
            row = {
                "task": task,
                "seed": seed,
                "hash": key[2],
                "loss": _plain(found.loss),
                "early": _plain(found.early),
                "seconds": round(time.perf_counter() - begun, 3),
                "program": str(program),
            }
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            sync(self.path)
            self.runs[key] = found
        return self.runs[key]


def begin(folder: Path, settings: dict[str, Any], resume: bool) -> None:
    """Write the settings of a new search, or check those of one that is resumed.

    Raises InputError if the folder holds another search, or anything else.
    """
    path = folder / "discover.json"
    settings = json.loads(json.dumps({"format": FORMAT, **settings}))
    if resume:
        remedy = "begin a new search with another --out"
        try:
            before = read_json(path, remedy)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{folder} holds no search; leave out --resume") from None
        if not isinstance(before, dict) or before.get("format") != FORMAT:
            raise InputError(f"{path} is not of a search; {remedy}")
        for name, value in settings.items():
            if name not in _MAY_DIFFER and before.get(name) != value:
                raise InputError(
                    f"cannot resume {folder} with another {name}; give it as before, or {remedy}"
                )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} is not empty; go on with --resume if it holds a search, or name another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, lambda to: to.write_text(text, encoding="utf-8"))


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.inf if value is None else float(value)
