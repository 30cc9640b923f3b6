"""The inverted-file index of a folder of embeddings, written by `diptych index` and read by
`Index`.

    EMB/index.json        the `State`: which file, which rows, and the recall it was measured to reach
    EMB/index-3.faiss     faiss' IndexIVFFlat, or IndexIVFScalarQuantizer, by inner product over those
                          rows, mapped when it is read

Vectors are sorted into lists by the nearest of some k-means centres, and a query reads the `nprobe`
lists whose centres are nearest to it. The lists hold the vectors, or codes of 6 bits a number: then
the best `candidates` by their codes are compared anew with the vectors of EMB itself, so that every
cosine is exact, and codes only decide which rows are compared. index.json is replaced last and in
one step and names its file, so a reader finds the complete old or new index, whenever a build is
interrupted.

Dimensions: Q queries, C candidates, E embedding.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.embeddings.layout import MANIFEST, Manifest
from diptych.embeddings.nearest import ordered
from diptych.embeddings.vectors import take
from diptych.errors import InputError, brief
from diptych.files import read_json, write_atomic
from diptych.spec import Count, Natural, check_record

Codes = Literal["flat", "6-bit"]
"""What the lists of an index hold: vectors, or 6 bits for each of their numbers."""
Vectors = Callable[[np.ndarray], np.ndarray]
"""Returns the vectors (N, E) of row numbers (N,)."""

FORMAT = "diptych-index/2"
_BEFORE = "diptych-index/1"  # without `codes` and `candidates`: always flat
STATE = "index.json"
_AT_ONCE = 64  # queries whose candidates are compared at once, which bounds the memory
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
    errors, reaches it; `measured` are those means. `codes` is what the lists hold; of codes the best
    `candidates` are compared anew, which is 0 for lists of vectors. `size` is that of `file` in
    bytes.
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
    codes: Codes = "flat"
    candidates: Natural = 0
    format: str = FORMAT

    def write(self, folder: Path) -> None:
        """Write EMB/index.json in one step."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        write_atomic(folder / STATE, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, folder: Path) -> "State | None":
        """Read EMB/index.json; None if there is none. Raises InputError if it is damaged or of
        another format."""
        values = read_state(cls, folder / STATE, (FORMAT, _BEFORE), anew(folder))
        if values is None:
            return None
        state = cls(**{**values, "removed": tuple(values["removed"])})
        if _FILE.fullmatch(state.file) is None or any(row >= state.rows for row in state.removed):
            raise InputError(
                f"{folder / STATE} is damaged (file {state.file!r}, {state.rows} rows); {anew(folder)}"
            )
        if (state.codes == "flat") != (state.candidates == 0):
            raise InputError(
                f"{folder / STATE} is damaged ({state.codes} codes, {state.candidates} candidates); "
                f"{anew(folder)}"
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


def read_state(cls: type, path: Path, forms: Sequence[str], remedy: str) -> dict[str, Any] | None:
    """Return the checked fields of a JSON file that describes what was made of some folders: a record
    `cls` with a tuple of `parts`; None if there is no file.

    Raises InputError, which ends with the remedy, if it is damaged or of none of the formats
    `forms`, the newest first.
    """
    try:
        values = read_json(path, remedy)
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = values.get("format") if isinstance(values, dict) else type(values).__name__
    if found not in forms:
        raise InputError(
            f"{path} is of format {brief(repr(found))}, this version reads {forms[0]!r}; {remedy}"
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
    last = sum(map(len, vectors)) - 1
    digest.update(take(vectors, np.linspace(0, last, rows).astype(int)).tobytes())
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
        if isinstance(index, library.IndexIVFScalarQuantizer) != (state.codes == "6-bit"):
            raise InputError(f"{path} holds other codes than {STATE} says; {anew(folder)}")
        # Else each search starts 32 threads that read the lists ahead, and waits for all of them:
        # twenty times the search itself, and no faster where the file comes from the disk.
        library.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
        return cls(state, index)

    def top(self, queries: Tensor, k: int, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """Return cosines (Q, k) and rows (Q, k), best first, of equal ones the lower row first; -1
        if the lists had fewer.

        `vectors` gives those of the rows, which are read for the candidates of an index of codes.
        """
        state = self.state
        if state.codes == "flat":
            return ordered(*listed(self._index, queries, k, state.nprobe))
        most = max(k, state.candidates)
        scores, rows = ordered(*compared(self._index, queries, most, state.nprobe, vectors))
        return scores[:, :k], rows[:, :k]


def listed(index: Any, queries: Tensor, k: int, nprobe: int) -> tuple[Tensor, Tensor]:
    """Return the scores (Q, k) and rows (Q, k) that any IndexIVF finds in its nearest lists, best
    first; row -1 if they had fewer."""
    settings = faiss().SearchParametersIVF(nprobe=nprobe)
    array = np.ascontiguousarray(queries.detach().cpu().float().numpy())
    scores, rows = index.search(array, k, params=settings)
    return torch.from_numpy(scores), torch.from_numpy(rows)


def compared(
    index: Any, queries: Tensor, candidates: int, nprobe: int, vectors: Vectors
) -> tuple[Tensor, Tensor]:
    """Return exact cosines (Q, C) of the best candidates by an index of codes, and their rows (Q, C),
    in the order of their codes; -inf and -1 if the lists had fewer."""
    rows = listed(index, queries, candidates, nprobe)[1]
    cosines = torch.full(rows.shape, -torch.inf)
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        # each vector once, in the order of the file
        read, places = some.unique(return_inverse=True)
        read, places = (read[1:], places - 1) if read[:1].eq(-1).any() else (read, places)
        if not len(read):
            continue
        taken = torch.from_numpy(vectors(read.numpy()))[places.clamp(min=0)]
        # not a matrix product, in which equal vectors may get scores that differ in the last bit
        products = (taken * queries[start : start + _AT_ONCE, None]).sum(2)
        cosines[start : start + _AT_ONCE] = products.masked_fill(some < 0, -torch.inf)
    return cosines, rows


def faiss(otherwise: str = "") -> ModuleType:
    """Return the library, which the extra `search` installs."""
    try:
        import faiss
    except ImportError:
        raise InputError(
            f"an index needs faiss; install it with: pip install 'diptych[search]'{otherwise}"
        ) from None
    return faiss
