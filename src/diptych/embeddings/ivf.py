"""The inverted-file index of a folder of embeddings, written by `diptych index` and read by
`Index`.

    EMB/index.json        the `State`: which file, which rows, and the recall it was measured to reach
    EMB/index-3.faiss     faiss' IndexIVFFlat by inner product over those rows, mapped when it is read

Vectors are sorted into lists by the nearest of some k-means centres, and a query reads the `nprobe`
lists whose centres are nearest to it. index.json is replaced last and in one step and names its
file, so a reader finds the complete old or new index, whenever a build is interrupted.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.embeddings.layout import MANIFEST, Manifest
from diptych.errors import InputError, brief
from diptych.files import read_json, write_atomic
from diptych.spec import Count, Natural, check_record

FORMAT = "diptych-index/1"
STATE = "index.json"
_FILE = re.compile(r"index-\d{1,9}\.faiss")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One folder of embeddings in an index: `path` relative to EMB ("." for EMB itself), its number
    of rows, and `fingerprint`."""

    path: str
    count: Count
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class State:
    """The contents of an index and the recall that it promises.

    Rows are numbered through the folders in order; those in `removed` are never returned. `recall`
    is the requested share of a query's `k` nearest that is found. `nprobe` of the `lists` lists are
    read, the fewest with which the mean over `held_out` queries of each kind, minus two standard
    errors, reaches it; `measured` are those means. `size` is that of `file` in bytes.
    """

    identity: str
    dimension: Count
    parts: tuple[Part, ...]
    removed: tuple[Natural, ...]
    recall: float
    k: Count
    lists: Count
    nprobe: Count
    measured: dict[str, float]
    held_out: Natural
    file: str
    size: Natural
    format: str = FORMAT

    def write(self, folder: Path) -> None:
        """Write EMB/index.json in one step."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        write_atomic(folder / STATE, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, folder: Path) -> "State | None":
        """Read EMB/index.json; None if there is none. Raises InputError if it is damaged or of
        another format."""
        values = read_state(cls, folder / STATE, FORMAT, anew(folder))
        if values is None:
            return None
        state = cls(**{**values, "removed": tuple(values["removed"])})
        if _FILE.fullmatch(state.file) is None or any(row >= state.rows for row in state.removed):
            raise InputError(
                f"{folder / STATE} is damaged (file {state.file!r}, {state.rows} rows); {anew(folder)}"
            )
        return state

    @property
    def rows(self) -> int:
        """The number of rows of all parts, removed ones included."""
        return sum(part.count for part in self.parts)

    def check(self, folder: Path, manifest: Manifest) -> None:
        """Raise InputError for embeddings of another model or dimension than this index."""
        if (self.identity, self.dimension) != (manifest.identity, manifest.dimension):
            raise InputError(
                f"{folder / STATE} is of another model ({self.identity[:19]}, {self.dimension} numbers) than {folder} "
                f"({manifest.identity[:19]}, {manifest.dimension} numbers); {anew(folder)}"
            )


def read_state(cls: type, path: Path, form: str, remedy: str) -> dict[str, Any] | None:
    """Return the checked fields of a JSON file that describes what was made of some folders: a record
    `cls` with a tuple of `parts`; None if there is no file.

    Raises InputError, which ends with the remedy, if it is damaged or not of the format `form`.
    """
    try:
        values = read_json(path, remedy)
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = values.get("format") if isinstance(values, dict) else type(values).__name__
    if found != form:
        raise InputError(
            f"{path} is of format {brief(repr(found))}, this version reads {form!r}; {remedy}"
        )
    if isinstance(values.get("parts"), list):
        values["parts"] = [
            Part(**check_record(Part, part, path, remedy)) for part in values["parts"]
        ]
    values = check_record(cls, values, path, remedy)
    return {**values, "parts": tuple(values["parts"])}


def anew(folder: Path) -> str:
    """Return the remedy for an index that cannot be used."""
    return f"remove {folder / STATE}, which makes searches exact, then run `diptych index {folder}`"


def fingerprint(folder: Path, vectors: Sequence[np.ndarray], rows: int = 64) -> str:
    """Return a checksum of diptych.json and of some rows spread over the folder: it distinguishes
    embeddings, but does not cover every byte."""
    digest = hashlib.sha256((folder / MANIFEST).read_bytes())
    starts = np.cumsum([0, *map(len, vectors)])
    for row in np.linspace(0, starts[-1] - 1, rows).astype(int):
        number = int(np.searchsorted(starts, row, side="right")) - 1
        digest.update(vectors[number][row - starts[number]].tobytes())
    return digest.hexdigest()


class Ivf:
    """An index file opened for search."""

    def __init__(self, state: State, index: Any):
        self.state = state
        self._index = index

    @classmethod
    def open(cls, folder: Path, state: State) -> "Ivf":
        """Map the file that `state` names. Raises InputError if it is truncated or its rows differ
        from `state`."""
        path = folder / state.file
        library = faiss(" or compare every vector with --exact")
        if not path.exists():
            raise FileNotFoundError(path)
        if (size := path.stat().st_size) != state.size:  # faiss would map a file that ends early
            raise InputError(
                f"{path} is damaged ({size:,} bytes in place of {state.size:,}); {anew(folder)}"
            )
        try:
            index = library.read_index(str(path), library.IO_FLAG_MMAP | library.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            reason = str(error).rpartition("Error: ")[2].splitlines()[0]
            raise InputError(f"{path} is damaged ({reason}); {anew(folder)}") from None
        rows = state.rows - len(state.removed)
        if (index.ntotal, index.d) != (rows, state.dimension):
            raise InputError(
                f"{path} holds {index.ntotal} rows of {index.d} numbers where {STATE} says {rows} of "
                f"{state.dimension}; {anew(folder)}"
            )
        return cls(state, index)

    def top(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return cosines (Q, k) and rows (Q, k), best first, of equal ones the lower row first; -1
        if the lists had fewer."""
        return top(self._index, queries, k, self.state.nprobe)


def top(index: Any, queries: Tensor, k: int, nprobe: int) -> tuple[Tensor, Tensor]:
    """The same for any IndexIVF and number of lists."""
    settings = faiss().SearchParametersIVF(nprobe=nprobe)
    array = np.ascontiguousarray(queries.detach().cpu().float().numpy())
    found = index.search(array, k, params=settings)
    scores, rows = map(torch.from_numpy, found)
    rows, order = rows.sort(dim=1, stable=True)  # faiss does not define the order of equal scores
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, rows.gather(1, order)


def faiss(otherwise: str = "") -> ModuleType:
    """Return the library, which the extra `search` installs."""
    try:
        import faiss
    except ImportError:
        raise InputError(
            f"an index needs faiss; install it with: pip install 'diptych[search]'{otherwise}"
        ) from None
    return faiss
