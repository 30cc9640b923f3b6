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
import torch
from torch import Tensor

from diptych.embeddings.index import Index, embeddings, mapped, read_table, take
from diptych.embeddings.ivf import Part, State, anew, faiss, fingerprint, top
from diptych.embeddings.layout import Manifest, parts_of
from diptych.errors import InputError, brief
from diptych.files import locked, write_atomic
from diptych.rng import generator

HELD_OUT = 1024
"""The number of queries of each kind that the recall is measured with."""

# training rows for each k-means centre: more make building slower, and searching no faster
_PER_LIST = 64
_CHUNK = 65_536  # rows added at once
_TIE = 1e-6  # cosines closer than the rounding of a float32 dot product are equal


def build_index(
    folder: str | Path,
    *,
    add: Sequence[str | Path] = (),
    remove: Sequence[str] = (),
    lists: int | None = None,
    recall: float | None = None,
    k: int | None = None,
) -> State:
    """Build EMB/index.json and its file, or change an existing index: add the rows of other
    folders, remove those of keys.

    With `add` or `remove` an existing index keeps its centres and only its rows change. Without
    them, or with `lists`, it is built anew over the same folders, without the rows removed before.
    In both cases the number of lists to read is chosen again. `lists` defaults to 4 √rows, `recall`
    and `k` to those of the existing index, else .99 and 10.

    Raises InputError for embeddings of another model, a folder added twice, an unknown key, too few
    rows, values out of range, a full disk, or another build in progress. The previous index then
    stays in use.
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
        recall = recall if recall is not None else old.recall if old else 0.99
        k = k if k is not None else old.k if old else 10
        if not 0 < recall < 1:
            raise InputError(
                f"recall is {recall:g}; give a share below 1, such as 0.99, or search with --exact"
            )
        if k < 1:
            raise InputError(f"k is {k}; the recall is that of at least 1 hit")
        parts = list(old.parts) if old else [part_of(folder, folder)]
        start = sum(part.count for part in parts)
        parts += _added(folder, manifest, add, parts)
        exact = Index.over(folder, manifest, parts, removed=old.removed if old else ())
        gone = _rows_of(exact, remove)
        removed = tuple(sorted({*exact.removed, *gone}))
        exact = Index.over(folder, manifest, parts, removed=removed)
        if len(exact) <= k:
            raise InputError(
                f"{folder} has {len(exact)} rows for {k} hits; an index is for more, search it exactly"
            )
        kept = np.setdiff1d(np.arange(sum(part.count for part in parts)), removed)
        held_out = generator(0, "held out").permutation(kept)[:HELD_OUT]
        if old and (add or remove) and lists is None:
            index = _read(library, folder, old)
            index.remove_ids(np.asarray(gone, np.int64))
            _fill(index, exact, kept[kept >= start])
        else:
            index = _new(
                library,
                exact,
                np.setdiff1d(kept, held_out) if len(kept) > 2 * HELD_OUT else kept,
                lists,
            )
            _fill(index, exact, kept)
        nprobe, measured = _calibrated(index, exact, held_out, recall, k)
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
            nprobe=nprobe,
            measured=measured,
            held_out=len(held_out),
            file=file,
            size=(folder / file).stat().st_size,
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
        found = Manifest.read(other.expanduser())
        if (found.identity, found.dimension) != (manifest.identity, manifest.dimension):
            raise InputError(
                f"{other} was embedded with {found.model} ({found.identity[:19]}, {found.dimension} numbers), {folder} "
                f"with {manifest.model} ({manifest.identity[:19]}, {manifest.dimension}); embed it with that model"
            )
        if found.rows != manifest.rows:
            raise InputError(
                f"{other} holds {found.rows}, {folder} {manifest.rows}; an index is of one kind"
            )
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


def _new(library: Any, exact: Index, rows: np.ndarray, lists: int | None) -> Any:
    lists = (
        lists if lists is not None else max(1, min(round(4 * len(exact) ** 0.5), len(exact) // 39))
    )
    if not 1 <= lists <= len(rows):
        raise InputError(
            f"lists is {lists} for {len(rows)} rows; give 1 to {len(rows)}, or leave it out"
        )
    dimension = exact.manifest.dimension
    index = library.IndexIVFFlat(
        library.IndexFlatIP(dimension), dimension, lists, library.METRIC_INNER_PRODUCT
    )
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


def _calibrated(
    index: Any, exact: Index, held_out: np.ndarray, recall: float, k: int
) -> tuple[int, dict[str, float]]:
    """Return the fewest lists to read that reach the recall for every kind of query, and the
    recalls that they reach."""
    kinds = _questions(exact, held_out, k)

    def reached(nprobe: int) -> dict[str, Tensor]:
        return {
            name: (_without(own, *top(index, queries, k + (own is not None), nprobe), k) >= worst)
            .float()
            .mean(1)
            for name, (queries, own, worst) in kinds.items()
        }

    def enough(nprobe: int) -> bool:
        return all(
            float(hit.mean() - 2 * hit.std() / len(hit) ** 0.5) >= recall
            for hit in reached(nprobe).values()
        )

    # invariant: `low` is too few
    low = 0
    high = 1
    while high < index.nlist and not enough(high):
        low = high
        high = min(2 * high, index.nlist)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high, {name: float(hit.mean()) for name, hit in reached(high).items()}


def _questions(
    exact: Index, held_out: np.ndarray, k: int
) -> dict[str, tuple[Tensor, Tensor | None, Tensor]]:
    """Return queries (Q, E), their own rows (Q,), which are no answer, and the smallest cosine (Q,
    1) of a correct answer.

    The queries are the rows themselves, and if they are images the captions of the same rows, if
    every folder has them: texts are in another region than images, and need more lists.
    """
    own = torch.from_numpy(held_out)
    rows = exact.manifest.rows
    kinds = {rows: (torch.from_numpy(exact.rows(held_out)), own)}
    words = _texts(exact, held_out) if rows == "images" else None
    kinds |= {} if words is None else {"texts": (words, None)}
    asked = {}
    for name, (queries, own) in kinds.items():
        worst = [
            _without(
                None if own is None else own[at : at + 128],
                *exact.top(queries[at : at + 128], k + (own is not None)),
                k,
            )
            for at in range(0, len(queries), 128)
        ]
        asked[name] = (queries, own, torch.cat(worst)[:, -1:] - _TIE)
    return asked


def _without(own: Tensor | None, scores: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the `k` best scores of rows other than a query's own."""
    scores = scores.masked_fill(rows < 0, -torch.inf)
    if own is None:
        return scores[:, :k]
    return (
        scores.masked_fill(rows == own[:, None], -torch.inf)
        .sort(dim=1, descending=True)
        .values[:, :k]
    )


def _texts(exact: Index, rows: np.ndarray) -> Tensor | None:
    folders = dict.fromkeys(path.parent.parent for path in exact.metadata)
    dimension = exact.manifest.dimension
    texts = [mapped(path, dimension) for folder in folders for path in parts_of(folder, "text_emb")]
    if list(map(len, texts)) != list(map(len, exact.vectors)):
        return None
    words = take(texts, rows)
    words = words[np.abs(words).sum(1) > 0]  # a row without a caption has zeros
    return torch.from_numpy(words) if len(words) else None
