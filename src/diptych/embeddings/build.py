"""Build the index of a folder of embeddings, add and remove rows, and measure the recall that it
promises.

Every change has the same order: the new faiss file is written beside the old one, its recall is
measured against exact search, index.json is replaced, and only then is the old file removed.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.embeddings.calibrate import HELD_OUT, NEAREST, RECALL, calibrated
from diptych.embeddings.index import Index, embeddings, read_table
from diptych.embeddings.ivf import Codes, Part, State, anew, faiss, fingerprint
from diptych.embeddings.layout import Manifest
from diptych.embeddings.searchable import Searchable
from diptych.errors import InputError, brief
from diptych.files import locked, write_atomic
from diptych.rng import generator

# training rows for each k-means centre: more make building slower, and searching no faster
_PER_LIST = 64
_CHUNK = 65_536  # rows added at once


def build_index(
    folder: str | Path,
    *,
    add: Sequence[str | Path] = (),
    remove: Sequence[str] = (),
    lists: int | None = None,
    recall: float | None = None,
    k: int | None = None,
    compress: bool | None = None,
) -> State:
    """Build EMB/index.json and its file, or change an existing index: add the rows of other
    folders, remove those of keys.

    With `add` or `remove` an existing index keeps its centres and only its rows change. Without
    them, with `lists`, or where `compress` changes what the lists hold, it is built anew over the
    same folders, without the rows removed before. In both cases the number of lists to read is
    chosen again. `compress` keeps 6 bits for each number of a vector, and searches compare the best
    rows by these codes anew with the vectors of the folders. `lists` defaults to 4 √rows, `recall`,
    `k` and `compress` to those of the existing index, else `RECALL`, `NEAREST` (fewer if there are
    fewer rows) and False.

    Raises InputError for embeddings of another model, a folder added twice, an unknown key, too few
    rows, values out of range, a recall that codes do not reach, a full disk, or another build in
    progress. The previous index then stays in use.
    """
    folder = Path(folder).expanduser()
    manifest = Manifest.read(folder)
    library = faiss()
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"{folder} cannot be written to; copy it to where you may write, and index it there"
        )
    with locked(folder, f"another build of {folder}'s index is under way; wait for it"):
        old = State.read(folder)
        if old is not None:
            old.check(folder, manifest)
        _sweep(folder, old)
        recall = recall if recall is not None else old.recall if old else RECALL
        compress = compress if compress is not None else old is not None and old.codes == "6-bit"
        codes: Codes = "6-bit" if compress else "flat"
        if not 0 < recall < 1:
            raise InputError(
                f"recall is {recall:g}; give a share below 1, such as 0.99, or search with --exact"
            )
        if k is not None and k < 1:
            raise InputError(f"k is {k}; the recall is that of at least 1 hit")
        parts = list(old.parts) if old else [part_of(folder, folder)]
        start = sum(part.count for part in parts)
        parts += _added(folder, manifest, add, parts)
        exact = Index.over(folder, manifest, parts, removed=old.removed if old else ())
        gone = _rows_of(exact, remove)
        removed = tuple(sorted({*exact.removed, *gone}))
        exact = Index.over(folder, manifest, parts, removed=removed)
        k = k or max(1, min(old.k if old else NEAREST, len(exact) - 1))
        if len(exact) <= k:
            raise InputError(
                f"{folder} has {len(exact)} rows for {k} hits; an index is for more, search it exactly"
            )
        kept = np.setdiff1d(np.arange(sum(part.count for part in parts)), removed)
        held_out = generator(0, "held out").permutation(kept)[:HELD_OUT]
        if old and (add or remove) and lists is None and codes == old.codes:
            index = _read(library, folder, old)
            index.remove_ids(np.asarray(gone, np.int64))
            _fill(index, exact, kept[kept >= start])
        else:
            index = trained(
                library,
                exact,
                np.setdiff1d(kept, held_out) if len(kept) > 2 * HELD_OUT else kept,
                lists,
                codes,
            )
            _fill(index, exact, kept)
        found = calibrated(index, codes, exact, held_out, recall, k)
        number = int(old.file.removeprefix("index-").removesuffix(".faiss")) + 1 if old else 0
        file = f"index-{number}.faiss"
        write_atomic(folder / file, lambda path: _save(library, index, path))
        state = State(
            identity=manifest.identity,
            dimension=manifest.dimension,
            parts=tuple(parts),
            removed=removed,
            recall=recall,
            k=k,
            lists=index.nlist,
            nprobe=found.nprobe,
            measured=found.measured,
            held_out=len(held_out),
            file=file,
            size=(folder / file).stat().st_size,
            codes=codes,
            candidates=found.candidates,
        )
        state.write(folder)
        _sweep(folder, state)
    return state


def _sweep(folder: Path, state: State | None) -> None:
    """Remove what interrupted builds left behind, and the previous index."""
    for path in (*folder.glob("index-*.faiss"), *folder.glob(".index*.tmp")):
        if state is None or path.name != state.file:
            path.unlink(missing_ok=True)


def part_of(folder: Path, other: Path) -> Part:
    """Return what an index in one folder records of another, or of the same."""
    manifest, vectors, _ = embeddings(other)
    path = os.path.relpath(other.resolve(), folder.resolve())
    return Part(path=path, count=manifest.count, fingerprint=fingerprint(other, vectors))


def _added(
    folder: Path, manifest: Manifest, add: Sequence[str | Path], there: Sequence[Part]
) -> list[Part]:
    parts: list[Part] = []
    for other in map(Path, add):
        manifest.refuse_other(str(folder), str(other), Manifest.read(other.expanduser()))
        part = part_of(folder, other.expanduser())
        if any(part.path == old.path for old in (*there, *parts)):
            raise InputError(f"{other} is in the index of {folder} already; add each folder once")
        parts.append(part)
    return parts


def _rows_of(index: Index, keys: Sequence[str]) -> list[int]:
    """Return the rows with one of the keys that are not removed yet. Raises InputError for an
    unknown key."""
    wanted = set(keys)
    removed = set(index.removed)
    rows = list[int]()
    found = set[str]()
    start = 0
    for path in index.metadata if keys else ():
        for key in read_table(path, ["key"])["key"].to_pylist():
            if key in wanted:
                found.add(key)
                rows += [] if start in removed else [start]
            start += 1
    missing = [key for key in keys if key not in found]
    if missing:
        raise InputError(
            f"no row of {index.folder} has the key {missing[0]!r}; search --json shows the keys"
        )
    return rows


def trained(
    library: Any, exact: Searchable, rows: np.ndarray, lists: int | None, codes: Codes
) -> Any:
    """Return an empty faiss index whose centres are fitted to some of the rows (N,)."""
    lists = (
        lists if lists is not None else max(1, min(round(4 * len(exact) ** 0.5), len(exact) // 39))
    )
    if not 1 <= lists <= len(rows):
        raise InputError(
            f"lists is {lists} for {len(rows)} rows; give 1 to {len(rows)}, or leave it out"
        )
    dimension = exact.manifest.dimension
    centres = library.IndexFlatIP(dimension)
    measure = library.METRIC_INNER_PRODUCT
    if codes == "flat":
        index = library.IndexIVFFlat(centres, dimension, lists, measure)
    else:
        # of the difference from the centre, which has a smaller range than the vector
        bits = library.ScalarQuantizer.QT_6bit
        index = library.IndexIVFScalarQuantizer(centres, dimension, lists, bits, measure, True)
    index.cp.seed = 0
    index.cp.min_points_per_centroid = 1
    few = np.sort(generator(0, "k-means").permutation(rows)[: _PER_LIST * lists])
    index.train(exact.rows(few))
    return index


def _fill(index: Any, exact: Index, rows: np.ndarray) -> None:
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        index.add_with_ids(exact.rows(chunk), chunk.astype(np.int64))


def _read(library: Any, folder: Path, state: State) -> Any:
    try:
        return library.read_index(str(folder / state.file))
    except RuntimeError as error:
        raise InputError(
            f"{folder / state.file} is damaged ({brief(error)}); {anew(folder)}"
        ) from None


def _save(library: Any, index: Any, path: Path) -> None:
    try:
        library.write_index(index, str(path))
    except RuntimeError as error:  # faiss reports the system's error as text
        for number in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
        ):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from error
        raise
