"""Stored verdicts: results/claims/NAME.json, their location, and whether they belong to the current
claim."""

import ast
import json
import os
from pathlib import Path
from typing import Any

from diptych.errors import InputError
from diptych.lab.provenance import checkout, stamp

FORMAT = "diptych-claim/1"

Record = dict[str, Any]
"""The contents of results/claims/NAME.json; docs/lab.md describes its parts."""


def results_folder(out: Path | None = None) -> Path:
    """Return where verdicts are stored: `out`, else results/claims of the current checkout, else of
    this folder."""
    return out if out is not None else (checkout(Path.cwd()) or Path.cwd()) / "results" / "claims"


def result_path(name: str, block: str = "claim", out: Path | None = None) -> Path:
    """Return NAME.json, or NAME.real.json for the block on real data.

    >>> result_path("lion", "real", Path("here")).name
    'lion.real.json'
    """
    return results_folder(out) / (f"{name}.json" if block == "claim" else f"{name}.{block}.json")


def read_result(path: Path) -> Record | None:
    """Return a stored result, or None if there is none. Raises InputError if the file is something
    else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise KeyError(record["format"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a result of diptych reproduce; move it away") from None
    return record


def blocks(path: Path) -> tuple[str, ...]:
    """Return the blocks of a claim's file that can run here, without importing it: `claim`, and
    `real` if the data packs are available."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {
        ast.unparse(target)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    return ("claim", "real") if "real" in named and os.environ.get("DIPTYCH_DATA") else ("claim",)


def is_stale(path: Path, block: str = "claim", out: Path | None = None) -> bool:
    """Whether there is no result for the current content of the claim's file."""
    found = read_result(result_path(path.stem, block, out))
    return found is None or found["file"]["blob"] != stamp(path).blob
