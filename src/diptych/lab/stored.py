"""Stored verdicts: results/claims/NAME.json, their location, and whether they belong to the current
claim."""

import ast
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diptych.errors import InputError
from diptych.lab.provenance import OWN, blob_of, changed, checkout, code_of, golden

FORMAT = "diptych-claim/2"
EARLIER = "diptych-claim/1"
"""Format of results that an earlier rule judged."""
LEDGER = "ledger.jsonl"

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
        if record["format"] not in (FORMAT, EARLIER):
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


def since(
    record: Record, path: Path, places: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> tuple[list[str], list[str]]:
    """Return what has changed since a result was stored: what makes it another experiment (the
    block of the claim, files of the method's package or of the user, its stored losses), and other
    files that ran. `places` are the paths of the user's files that do not lie by the claim."""
    name = record["claim"]
    files = changed(record["files"], places, path)
    own = [
        file
        for file in files
        if file.startswith(OWN) or re.fullmatch(rf"methods/\w+/{re.escape(name)}(\.py|/.*)", file)
    ]
    decisive = [*own] if _is_same(record, path.read_bytes()) else [path.name, *own]
    if record["golden"] != golden(name):
        decisive.append(f"tests/golden/{name}.txt")
    return decisive, [file for file in files if file not in own]


def _is_same(record: Record, data: bytes) -> bool:
    """Whether a claim's file has the block that a record judged."""
    file = record["file"]
    return file["blob"] == blob_of(data) or file.get("code") == code_of(data, record["block"])


def is_stale(path: Path, block: str = "claim", out: Path | None = None) -> bool:
    """Return whether there is no result of the claim and its method as they now are, or a look of
    it is due."""
    found = read_result(result_path(path.stem, block, out))
    if found is None or found["format"] == EARLIER:
        return True
    return bool(since(found, path)[0]) or found["open_look"] is not None


def enter(folder: Path, entry: Record) -> None:
    """Append a line to the ledger of started runs, which is never rewritten."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LEDGER).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
