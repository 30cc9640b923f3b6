"""Search in a Lance dataset: by its index, or exactly, batch by batch, so that the vectors never have
to be in memory.

Rows are numbered through the fragments of a version, deleted ones included: numbers stay the same
within a version.

Dimensions: Q queries, N rows, C candidates, E embedding, K hits.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.embeddings.hits import Hit, Hits
from diptych.embeddings.lance.filters import pushed
from diptych.embeddings.lance.table import (
    ADDRESS,
    ORIGIN,
    SCHEME,
    VECTOR,
    Address,
    State,
    kinds_of,
    manifest_of,
    open_dataset,
    reading,
    state_of,
)
from diptych.embeddings.nearest import TILE, check_model, check_queries, nearest, ordered
from diptych.embeddings.where import parse
from diptych.errors import InputError, located
from diptych.models.model import TextModel

_AT_ONCE = 128  # queries in one call of Lance, which holds their candidates' vectors
_SPARSE = 1 / 16  # below this share of all rows, those that pass a filter are read one by one


class Store:
    """The images of a LanceDB table, or its texts, opened by `Store.open`. It answers what
    `embeddings.index.Index` answers (`embeddings.searchable`)."""

    def __init__(self, name: str, dataset: Any, state: State | None = None):
        self.name = name
        self.dataset = dataset
        self.manifest = manifest_of(dataset, name)
        self.state = state
        self.kinds = kinds_of(dataset, self.manifest)
        with reading(name):
            fragments = dataset.get_fragments()
            self._fragments = np.array([each.fragment_id for each in fragments], np.int64)
            self._order = np.argsort(self._fragments)
            self._starts = np.cumsum([0, *(each.physical_rows for each in fragments)])
            self.removed = self._deleted(fragments)
        self.passing = lru_cache(maxsize=8)(self._passing)

    @classmethod
    def open(cls, address: str | Address, *, exact: bool = False) -> "Store":
        """Open `lancedb:PATH` or `lancedb:PATH:version=N`.

        `exact` compares every vector although there is an index. Raises InputError without the
        extra `lance`, if there is no such dataset or version, if diptych did not write it, if its
        first build was interrupted, and if it is damaged.
        """
        address = Address.parse(address) if isinstance(address, str) else address
        dataset = open_dataset(address)
        manifest_of(dataset, str(address))  # raises its error first
        state = state_of(dataset, str(address))
        if state is None:
            raise InputError(
                f"{address} has no index in this version: its build was interrupted, or goes on; open another version, "
                f"or run `diptych index EMB --to {SCHEME}{address.path}` again"
            )
        return cls(str(address), dataset, None if exact else state)

    @property
    def version(self) -> int:
        """The number of the version that is open."""
        return self.dataset.version

    @property
    def places(self) -> list[str]:
        """The paths that messages may name."""
        return [self.name]

    @property
    def stamp(self) -> str:
        """What distinguishes these rows from others that the dataset held or will hold."""
        manifest = self.manifest
        return repr((manifest.identity, manifest.source, self.version, len(self)))

    @property
    def most(self) -> int:
        """The largest `k` that the index answers; searches for more hits are exact."""
        return self.state.k if self.state is not None and self.state.lists else 0

    @property
    def kept(self) -> np.ndarray:
        """Which rows (N,) are not removed."""
        kept = np.ones(self._starts[-1], bool)
        kept[self.removed] = False
        return kept

    def __len__(self) -> int:
        return int(self._starts[-1]) - len(self.removed)

    def check(self, model: TextModel) -> None:
        """Raise InputError for a model other than the one that made these embeddings."""
        check_model(self.name, self.manifest, model)

    def top(
        self, queries: Tensor, k: int = 10, among: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the `k` best rows for each query (Q, E), as `Index.top` does."""
        check_queries(self.name, self.manifest, queries, k)
        queries = queries.detach().cpu().float()
        k = min(k, len(self))
        if among is not None or k > self.most or self.state is None:
            return nearest(queries, k, self._tiles(among))
        found = self.candidates(queries, self.state.candidates, self.state.nprobe)
        scores, rows = (each[:, :k] for each in ordered(*found))
        short = (rows < 0).any(1)
        if short.any():
            scores[short], rows[short] = nearest(queries[short], k, self._tiles(None))
        return scores, rows

    def candidates(self, queries: Tensor, count: int, nprobe: int) -> tuple[Tensor, Tensor]:
        """Return cosines (Q, C) with queries (Q, E), and rows (Q, C), the best `count` of what `nprobe`
        lists hold, in the order of their codes; -inf and -1 if the lists have fewer."""
        scores = torch.full((len(queries), count), -torch.inf)
        rows = torch.full((len(queries), count), -1)
        for start in range(0, len(queries), _AT_ONCE):
            asked = queries[start : start + _AT_ONCE]
            with reading(self.name):
                found = self.dataset.scanner(
                    columns=[VECTOR, "_distance"],
                    nearest={
                        "column": VECTOR,
                        "q": asked.numpy(),
                        "k": count,
                        "nprobes": nprobe,
                        "metric": "dot",
                    },
                    with_row_address=True,
                ).to_table()
            query = found["query_index"].to_numpy()
            rank = np.arange(len(query)) - np.searchsorted(query, query)
            cosines = np.einsum("ne,ne->n", _vectors(found), asked.numpy()[query])
            scores[start + query, rank] = torch.from_numpy(cosines)
            rows[start + query, rank] = torch.from_numpy(self._numbers(found[ADDRESS].to_numpy()))
        return scores, rows

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of the vectors (N, E) of the rows (N,)."""
        return _vectors(self._take(rows, [VECTOR]))

    def hits(self, scores: Tensor, rows: Tensor) -> Hits:
        """Return the data of the rows (K,) that `top` returned for one query."""
        table = self._take(rows.numpy(), list(self.kinds))
        found = Hits()
        for rank, (score, values) in enumerate(
            zip(scores.tolist(), table.to_pylist(), strict=True), start=1
        ):
            found.append(Hit.of_row(rank, score, values, self.manifest.rows == "regions"))
        return found

    def source_of(self, row: int) -> str:
        """Return the source that a row was embedded from."""
        return self._take(np.array([row]), [ORIGIN])[ORIGIN][0].as_py()

    def alive(self, row: int) -> bool:
        """Whether there is such a row, and it was not removed."""
        at = int(np.searchsorted(self.removed, row))
        there = 0 <= row < self._starts[-1]
        return there and not (at < len(self.removed) and self.removed[at] == row)

    def batches(
        self, columns: Sequence[str], filter: str | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield row numbers (T,), ascending, and a table of columns, but for the removed rows."""
        with reading(self.name):
            scanner = self.dataset.scanner(
                columns=list(columns),
                filter=filter,
                batch_size=TILE,
                scan_in_order=True,
                with_row_address=True,
            )
            reader = iter(scanner.to_batches())
        while True:
            with reading(self.name):
                batch = next(reader, None)
            if batch is None:
                return
            yield self._numbers(batch[ADDRESS].to_numpy()), batch

    def _passing(self, where: str) -> np.ndarray:
        """Return which rows (N,) pass a filter, as `Index.passing` does, but never a removed one.

        Lance evaluates it where it means the same there (`lance.filters`); else its columns are
        read.
        """
        filter = parse(where)
        filter.check(self.kinds, self.name)
        passing = np.zeros(self._starts[-1], bool)
        text = pushed(filter.test, self.kinds)
        for rows, batch in self.batches([] if text else filter.columns, text):
            if text:
                passing[rows] = True
                continue
            with located(self.name):
                passing[rows] = filter.mask(_table(batch))
        passing.flags.writeable = False  # it is shared by all searches with this filter
        return passing

    def _tiles(self, among: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if among is not None:
            wanted = np.flatnonzero(among & self.kept)
            if len(wanted) < _SPARSE * len(self):
                for start in range(0, len(wanted), TILE):
                    rows = wanted[start : start + TILE]
                    yield rows, self.rows(rows)
                return
        for rows, batch in self.batches([VECTOR]):
            vectors = _vectors(batch)
            kept = np.ones(len(rows), bool) if among is None else among[rows]
            if kept.any():
                yield rows[kept], vectors[kept]

    def _deleted(self, fragments: Sequence[Any]) -> np.ndarray:
        """Return the rows, ascending, that are in a file but were deleted."""
        found = [np.empty(0, np.int64)]
        for start, fragment in zip(self._starts, fragments, strict=False):
            if fragment.num_deletions:
                scanner = self.dataset.scanner(
                    columns=[], fragments=[fragment], with_row_address=True
                )
                there = self._numbers(scanner.to_table()[ADDRESS].to_numpy())
                found.append(np.setdiff1d(start + np.arange(fragment.physical_rows), there))
        return np.concatenate(found)

    def _numbers(self, addresses: np.ndarray) -> np.ndarray:
        """Return the row numbers (N,) of Lance's addresses."""
        addresses = addresses.astype(np.int64)
        places = np.searchsorted(self._fragments, addresses >> 32, sorter=self._order)
        return self._starts[self._order[places]] + (addresses & 0xFFFFFFFF)

    def _take(self, rows: np.ndarray, columns: list[str]) -> Any:
        """Return a table of rows (N,), in their order."""
        ranks = rows - np.searchsorted(self.removed, rows)  # Lance counts what is there
        with reading(self.name):
            return self.dataset.take(ranks.tolist(), columns=columns)


def _vectors(found: Any) -> np.ndarray:
    """Return the vectors (N, E) of a batch or a table; a copy, which torch may write to."""
    column = found[VECTOR]
    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    return column.flatten().to_numpy().reshape(-1, column.type.list_size).copy()


def _table(batch: Any) -> Any:
    import pyarrow

    return pyarrow.Table.from_batches([batch])
