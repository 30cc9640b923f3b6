"""Write folders of embeddings to a Lance dataset, build its index, and add and remove rows.

A change takes several commits: rows, index, state. The tag `UNFINISHED` marks the version before the
first of them and is removed after the last, so that a reader opens the complete dataset of before or
after, whenever a change is interrupted. The next change goes on from the version that is marked.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.embeddings.build import trained
from diptych.embeddings.calibrate import HELD_OUT, NEAREST, RECALL, cheapest, questions, words_of
from diptych.embeddings.columns import ALWAYS, Kind
from diptych.embeddings.index import Index
from diptych.embeddings.ivf import faiss
from diptych.embeddings.lance.filters import literal
from diptych.embeddings.lance.rows import batches, fingerprints, refuse_other, schema_of
from diptych.embeddings.lance.store import Store
from diptych.embeddings.lance.table import (
    STATE,
    UNFINISHED,
    VECTOR,
    Address,
    State,
    exists,
    library,
    manifest_of,
    open_dataset,
    reading,
    state_of,
    writing,
    written,
)
from diptych.errors import InputError
from diptych.files import locked
from diptych.rng import generator

Report = Callable[[int, int], None]
Stage = Callable[[str], AbstractContextManager[Report]]
"""Begins a part of the work that has this name, and reports what of it is done."""

_FEWEST = 4096  # rows from which on reading lists is faster than reading all
_MOST = 16  # candidates for each hit
_KEYS = 10_000  # removed in one commit


def _silent(name: str) -> AbstractContextManager[Report]:
    return nullcontext(lambda done, total: None)


def write_store(
    folder: str | Path,
    to: str,
    *,
    add: Sequence[str | Path] = (),
    remove: Sequence[str] = (),
    lists: int | None = None,
    recall: float | None = None,
    k: int | None = None,
    stage: Stage = _silent,
) -> Store:
    """Write what a search in a folder of embeddings finds, and in those of `add`, to the dataset `to`
    (`lancedb:PATH`), but for the rows of some keys, and build its index.

    A dataset that diptych wrote gets a new version with these rows alone. `lists` defaults to 4 √rows,
    `recall` to `RECALL` and `k` to `NEAREST`; a dataset of few rows gets no index unless `lists` is given.

    Raises InputError for folders of different models or columns, for another dataset or another
    folder in that place, an unknown key, values out of range, a recall that is not reached, a full
    disk, and another build in progress. The previous version then stays in use.
    """
    address = _newest(to)
    settings = _settings(None, lists, recall, k)
    parts = [Index.open(each, exact=True) for each in (folder, *add)]
    schema = schema_of(parts)
    with _changing(address, fresh=True) as dataset:
        if dataset is not None and (add or remove):
            raise InputError(
                f"{address} exists; change it with `diptych index {address} --add MORE --remove KEY`, or write it anew "
                "without --add and --remove"
            )
        prints = _append(address, parts, schema, "overwrite", [], stage)
        if remove:
            _delete(address, remove)
        _finish(address, settings, prints, _words(parts), None, stage)
    return Store.open(address)


def change_store(
    to: str,
    *,
    add: Sequence[str | Path] = (),
    remove: Sequence[str] = (),
    lists: int | None = None,
    recall: float | None = None,
    k: int | None = None,
    stage: Stage = _silent,
) -> Store:
    """Add the rows of folders to a dataset, and remove those of keys; without both, build its index
    anew.

    Rows are added to the lists that are there; with `lists` the index is built anew. How much a
    search reads is chosen again, and is never less than before, since the captions that it was
    chosen for are no longer there. Errors are those of `write_store`.
    """
    address = _newest(to)
    parts = [Index.open(each, exact=True) for each in add]
    with _changing(address, fresh=False) as dataset:
        manifest = manifest_of(dataset, str(address))
        before = state_of(dataset, str(address))
        assert before is not None, "a dataset without a state is refused when it is opened"
        settings = _settings(before, lists, recall, k)
        prints = before.fingerprints
        if parts:
            columns: dict[str, Kind] = {**ALWAYS, **manifest.columns}
            for part in parts:
                refuse_other(str(address), manifest, columns, part)
            prints = _append(address, parts, dataset.schema, "append", prints, stage)
        if remove:
            _delete(address, remove)
        keeps = bool(add or remove) and lists is None and before.lists > 0
        _finish(
            address,
            settings,
            prints,
            _words(parts),
            before if keeps else None,
            stage,
        )
    return Store.open(address)


def _newest(to: str) -> Address:
    address = Address.parse(to)
    if address.version is not None:
        raise InputError(
            f"{to} is one version, and changes make a new one; leave :version={address.version} out"
        )
    return address


def _settings(
    before: State | None, lists: int | None, recall: float | None, k: int | None
) -> dict[str, Any]:
    recall = recall if recall is not None else before.recall if before else RECALL
    k = k if k is not None else before.k if before else NEAREST
    if not 0 < recall < 1:
        raise InputError(f"recall is {recall:g}; give a share below 1, such as 0.99")
    if k < 1:
        raise InputError(f"k is {k}; the recall is that of at least 1 hit")
    return {"lists": lists, "recall": recall, "k": k}


@contextmanager
def _changing(address: Address, *, fresh: bool) -> Iterator[Any]:
    """Context of a change, which yields the dataset before it, or None if there is none that was
    finished.

    On disk it holds a lock. A change that fails is undone.
    """
    folder = address.local
    with ExitStack() as stack:
        if not fresh:
            open_dataset(address)
        made = folder is not None and not folder.exists()
        if folder is not None:
            if folder.exists() and not folder.is_dir():
                raise InputError(f"{folder} is a file; name a folder that does not exist yet")
            with writing(str(address)):
                folder.mkdir(parents=True, exist_ok=True)
            busy = f"another build of {address} is under way; wait for it"
            stack.enter_context(locked(folder, busy))
        before = _marked(address, fresh)
        try:
            yield before
        except BaseException:
            if before is not None:
                with suppress(InputError):  # if this fails too, the next change does it
                    _undo(address)
            elif made and folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _marked(address: Address, fresh: bool) -> Any:
    """Return the dataset to change, after marking its version; None if none was finished.

    What an interrupted change left behind is undone first.
    """
    folder = address.local
    if fresh and not exists(address):
        if folder is not None and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty and no LanceDB table; name another path")
        return None
    dataset = open_dataset(address)
    manifest_of(dataset, str(address))
    if fresh and state_of(dataset, str(address)) is None:
        return None
    Store.open(address)  # raises its errors
    _undo(address)
    with writing(str(address)):
        dataset = library().dataset(address.place)
        dataset.tags.create(UNFINISHED, dataset.version)
        return dataset


def _undo(address: Address) -> None:
    """Make the version that is marked the newest again, and remove the mark; without one, nothing."""
    with writing(str(address)):
        dataset = library().dataset(address.place)
        if UNFINISHED in dataset.tags.list():
            before = dataset.checkout_version(UNFINISHED)
            if before.version != dataset.version:
                before.restore()
            dataset.tags.delete(UNFINISHED)


def _append(
    address: Address,
    parts: Sequence[Index],
    schema: Any,
    mode: str,
    there: Sequence[str],
    stage: Stage,
) -> list[str]:
    """Write rows in one commit; return the fingerprints of all folders in the dataset."""
    import pyarrow

    prints = list(there)
    for part in parts:
        for fingerprint in fingerprints(part):
            if fingerprint in prints:
                raise InputError(f"{part.name} is in {address} already; add each folder once")
            prints.append(fingerprint)
    problems: list[InputError] = []

    def reported(report: Report) -> Iterator[Any]:
        done = 0
        total = sum(map(len, parts))
        try:
            for batch in batches(schema, parts):
                yield batch
                done += batch.num_rows
                report(done, total)
        except InputError as error:  # Lance would wrap it
            problems.append(error)
            raise

    with stage("writing rows") as report:
        reader = pyarrow.RecordBatchReader.from_batches(schema, reported(report))
        try:
            with writing(str(address)):
                library().write_dataset(reader, address.place, mode=mode)
        except InputError:
            if problems:
                raise problems[0] from None
            raise
    return prints


def _delete(address: Address, keys: Sequence[str]) -> None:
    """Delete the rows of keys. Raises InputError for a key that no row has, and if none is left."""
    dataset = library().dataset(address.place)
    groups = [keys[start : start + _KEYS] for start in range(0, len(keys), _KEYS)]
    texts = [f"key IN ({', '.join(map(literal, group))})" for group in groups]
    with reading(str(address)):
        tables = [dataset.to_table(columns=["key"], filter=text) for text in texts]
    found = {key for table in tables for key in table["key"].to_pylist()}
    missing = [key for key in keys if key not in found]
    if missing:
        raise InputError(
            f"no row of {address} has the key {missing[0]!r}; search --json shows the keys"
        )
    if sum(table.num_rows for table in tables) == dataset.count_rows():
        raise InputError(f"no row of {address} would be left; remove the store itself")
    with writing(str(address)):
        for text in texts:
            dataset.delete(text)


def _finish(
    address: Address,
    settings: dict[str, Any],
    prints: list[str],
    words: Tensor | None,
    before: State | None,
    stage: Stage,
) -> None:
    """Build the index, or with a state from before add what it lacks; choose what a search reads, and
    write the state."""
    name = str(address)
    dataset = library().dataset(address.place)
    rows = dataset.count_rows()
    recall = settings["recall"]
    k = settings["k"]
    lists = settings["lists"]
    few = rows <= k or (before is None and lists is None and rows < _FEWEST)
    if few:
        state = State(
            recall=recall,
            k=k,
            lists=0,
            nprobe=0,
            candidates=0,
            measured={},
            held_out=0,
            fingerprints=prints,
        )
    else:
        store = Store(name, dataset)
        kept = np.flatnonzero(store.kept)
        held_out = generator(0, "held out").permutation(kept)[:HELD_OUT]
        if before is not None:
            lists = before.lists
            with writing(name):
                dataset.optimize.optimize_indices()
        else:
            fitted = np.setdiff1d(kept, held_out) if rows > 2 * HELD_OUT else kept
            lists = _sort(store, fitted, lists, stage)
        store = Store(name, library().dataset(address.place))
        state = _calibrated(store, held_out, lists, recall, k, prints, words, before, stage)
    with writing(str(address)):
        dataset = library().dataset(address.place)
        dataset.update_schema_metadata({STATE: written(state)})
        if UNFINISHED in dataset.tags.list():
            dataset.tags.delete(UNFINISHED)


def _words(parts: Sequence[Index]) -> Tensor | None:
    """Return vectors (W, E) of captions of all folders; None if a folder has none, or rows that are
    texts themselves."""
    if not parts or any(part.manifest.rows == "texts" for part in parts):
        return None
    total = sum(map(len, parts))
    found = []
    for part in parts:
        count = -(-HELD_OUT * len(part) // total)
        rows = generator(0, "held out").permutation(np.flatnonzero(part.kept))[:count]
        words = words_of(part, rows)
        if words is None:
            return None
        found.append(words)
    return torch.cat(found)


def _sort(store: Store, rows: np.ndarray, lists: int | None, stage: Stage) -> int:
    """Build the index of a dataset, with centres that are fitted to some of the rows (N,); return the
    number of its lists."""
    index = trained(faiss(), store, rows, lists, "flat")
    centres = index.quantizer.reconstruct_n(0, index.nlist)
    with writing(store.name), stage("sorting rows into lists") as report:

        def told(event: Any) -> None:
            if event.stage == "shuffle" and event.total:
                report(min(event.completed or 0, event.total), event.total)

        store.dataset.create_index(
            VECTOR,
            "IVF_SQ",
            metric="dot",
            num_partitions=index.nlist,
            ivf_centroids=centres,
            replace=True,
            progress_callback=told,
        )
    return index.nlist


def _calibrated(
    store: Store,
    held_out: np.ndarray,
    lists: int,
    recall: float,
    k: int,
    prints: list[str],
    words: Tensor | None,
    before: State | None,
    stage: Stage,
) -> State:
    most = min(_MOST * k, len(store) - 1)
    with stage("searching exactly, to compare with") as report:
        kinds = questions(store, held_out, words, k, report)
    expected = 2 * len(kinds) * lists.bit_length()  # about, of a search that doubles and halves
    done = 0

    with stage("measuring the recall") as report:

        def search(queries: Tensor, count: int, nprobe: int) -> tuple[Tensor, Tensor]:
            nonlocal done
            found = store.candidates(queries, count, nprobe)
            done = min(done + 1, expected)
            report(done, expected)
            return found

        found = cheapest(search, kinds, recall, k, most, lists, len(store))
    if not found.enough:
        reached = ", ".join(f"{value:.4f} for {kind}" for kind, value in found.measured.items())
        raise InputError(
            f"the index reaches a recall of {reached} in place of {recall:g} plus two standard errors with {most} "
            "candidates; ask for less recall, or give --lists, which fits the index to the rows anew"
        )
    return State(
        recall=recall,
        k=k,
        lists=lists,
        nprobe=max(found.nprobe, before.nprobe if before else 0),
        candidates=max(found.candidates, before.candidates if before else 0),
        measured=found.measured,
        held_out=len(held_out),
        fingerprints=prints,
    )
