"""Search in a folder of embeddings: exactly, or with the index that `diptych index` made (see
`diptych.embeddings.ivf`).

Exact search compares every vector, read through a memory map in tiles: a million vectors of 512
dimensions take a fraction of a second on two cores and little memory.

Dimensions: Q queries, N rows, E embedding, K hits.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diptych.embeddings.columns import ALWAYS, Kind, arrow, united
from diptych.embeddings.hits import Hit, Hits
from diptych.embeddings.ivf import STATE, Ivf, Part, State, anew, fingerprint
from diptych.embeddings.layout import Manifest, parquet, parts_of
from diptych.embeddings.nearest import TILE, check_model, check_queries, nearest
from diptych.embeddings.vectors import take
from diptych.embeddings.where import parse
from diptych.errors import InputError, located
from diptych.models.model import TextModel

_SAMPLED = 1024  # rows of a file whose length is checked when it is opened
_OFF = 1e-3  # tolerance of the length of a unit vector
_KEPT = 64  # parts of metadata in memory, of up to 100,000 rows each


class Index:
    """The images of a folder of embeddings, or its texts, opened by `Index.open`."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        vectors: Sequence[np.ndarray],
        metadata: Sequence[Path],
        *,
        columns: Sequence[Mapping[str, Kind]] | None = None,
        removed: Sequence[int] = (),
        ivf: Ivf | None = None,
    ):
        self.folder = folder
        self.manifest = manifest
        self.vectors = vectors
        self.metadata = metadata
        self.columns = columns or [manifest.columns] * len(metadata)  # of each metadata file
        self.kinds: Mapping[str, Kind] = {**ALWAYS, **united(self.columns)}
        self.removed = removed
        self.ivf = ivf
        self._starts = np.cumsum([0, *map(len, vectors)])
        self._alive = np.ones(self._starts[-1], bool)
        self._alive[list(removed)] = False
        self._metadata = lru_cache(maxsize=_KEPT)(self._read)
        self._source_in = lru_cache(maxsize=None)(lambda other: Manifest.read(other).source)
        self.passing = lru_cache(maxsize=8)(self._passing)

    @classmethod
    def open(cls, folder: str | Path, *, exact: bool = False, several: bool = False) -> "Index":
        """Map the files that `diptych embed` wrote, and the index that `diptych index` made of
        them, if there is one.

        `exact` compares every vector nevertheless; rows added to the index are found, removed rows
        are not. `several` says that a row may have several vectors. Raises InputError if files are
        missing, truncated or do not fit together, if the index belongs to another model, or for rows
        with several vectors.
        """
        folder = Path(folder).expanduser()
        manifest, vectors, metadata = embeddings(folder, several)
        state = State.read(folder)
        if state is None:
            return cls(folder, manifest, vectors, metadata)
        state.check(folder, manifest)
        try:
            ivf = None if exact else Ivf.open(folder, state)
        except FileNotFoundError as error:
            if State.read(folder) != state:  # rebuilt since it was read
                return cls.open(folder)
            raise InputError(f"{error.args[0]} is missing; {anew(folder)}") from None
        return cls.over(folder, manifest, state.parts, removed=state.removed, ivf=ivf)

    @classmethod
    def over(
        cls,
        folder: Path,
        manifest: Manifest,
        parts: Sequence[Part],
        *,
        removed: Sequence[int],
        ivf: Ivf | None = None,
    ) -> "Index":
        """Open an index over several folders, whose rows are numbered in order.

        Raises InputError if a folder has changed.
        """
        vectors: list[np.ndarray] = []
        metadata: list[Path] = []
        columns: list[Mapping[str, Kind]] = []
        for part in parts:
            other = folder / part.path
            found, more, tables = embeddings(other)
            if (sum(map(len, more)), fingerprint(other, more)) != (part.count, part.fingerprint):
                raise InputError(
                    f"{other} is not as it was when {folder / STATE} was made; {anew(folder)}"
                )
            vectors += more
            metadata += tables
            columns += [found.columns] * len(tables)
        return cls(folder, manifest, vectors, metadata, columns=columns, removed=removed, ivf=ivf)

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.folder)

    @property
    def places(self) -> list[str]:
        """The folders that messages may name."""
        return list(dict.fromkeys(str(path.parent.parent) for path in self.metadata))

    @property
    def stamp(self) -> str:
        """What distinguishes these rows from others that the folder held or will hold."""
        manifest = self.manifest
        return repr((manifest.identity, manifest.count, manifest.source, len(self)))

    @property
    def most(self) -> int:
        """The largest `k` that the index answers; searches for more hits are exact."""
        return 0 if self.ivf is None else self.ivf.state.k

    @property
    def kept(self) -> np.ndarray:
        """Which rows (N,) are not removed."""
        return self._alive

    def __len__(self) -> int:
        return len(self._alive) - len(self.removed)

    def check(self, model: TextModel) -> None:
        """Raise InputError for a model other than the one that made these embeddings: the cosines
        would be meaningless."""
        check_model(self.name, self.manifest, model)

    def top(
        self, queries: Tensor, k: int = 10, among: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the `k` best rows for each query (Q, E): cosines (Q, K) descending and row numbers
        (Q, K), K = min(k, N).

        Of equal scores the lower row comes first, whatever the tiles. With `among` (N,) booleans,
        such as `passing` returns, the search is among these rows. With an index, up to its `k`
        hits are searched for in it. What its recall does not cover is exact: more hits, queries
        whose lists have fewer than `k` rows, and a search among some rows.
        """
        check_queries(self.name, self.manifest, queries, k)
        queries = queries.detach().cpu().float()
        if among is not None:
            return self._exact(queries, k, self._alive & among)
        if self.ivf is None or k > self.most:
            return self._exact(queries, k)
        scores, rows = self.ivf.top(queries, k, self.rows)
        short = (rows < 0).any(1)
        if short.any():
            scores[short], rows[short] = self._exact(queries[short], k)
        return scores, rows

    def _exact(
        self, queries: Tensor, k: int, among: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        if among is None and self.removed:
            among = self._alive
        return nearest(queries, k, self._tiles(among))

    def _tiles(self, among: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = max(1, TILE // self.manifest.vectors)
        for start, vectors in zip(self._starts, self.vectors, strict=False):
            for offset in range(0, len(vectors), size):
                tile = vectors[offset : offset + size]
                rows = np.arange(len(tile)) + int(start) + offset
                if among is not None:
                    kept = among[rows[0] : rows[-1] + 1]
                    if not kept.any():
                        continue
                    tile = tile[kept]
                    rows = rows[kept]
                yield rows, tile

    def _passing(self, where: str) -> np.ndarray:
        """Return which rows (N,), removed ones included, pass a filter (`embeddings.where`).

        Raises InputError for a text that is no filter, an unknown column, and values that cannot be
        compared so. The result is kept for the next search.
        """
        filter = parse(where)
        filter.check(self.kinds, self.name)
        masks: list[np.ndarray] = []
        for number, path in enumerate(self.metadata):
            table = self._read(number, filter.columns or ("position",))
            with located(str(path.parent.parent)):
                masks.append(filter.mask(table))
        passing = np.concatenate(masks)
        passing.flags.writeable = False  # it is shared by all searches with this filter
        return passing

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of the vectors (N, E) of the rows (N,)."""
        return take(self.vectors, rows)

    def hits(self, scores: Tensor, rows: Tensor) -> Hits:
        """Return the data of the rows (K,) that `top` returned for one query."""
        found = Hits()
        for rank, (score, row) in enumerate(
            zip(scores.tolist(), rows.tolist(), strict=True), start=1
        ):
            found.append(Hit.of_row(rank, score, self._row(row), self.manifest.rows == "regions"))
        return found

    def blocks(self) -> Iterator[tuple[str, np.ndarray, Any]]:
        """Yield the rows that are not removed, in order, at most `TILE` at once: their source, their
        vectors (T, E), and their metadata as a pyarrow table."""
        for number, (start, vectors) in enumerate(zip(self._starts, self.vectors, strict=False)):
            table = self._read(number)
            for offset in range(0, len(vectors), TILE):
                kept = self._alive[start + offset : start + min(offset + TILE, len(vectors))]
                part = table.slice(offset, TILE)
                source = self._source_in(self.metadata[number].parent.parent)
                yield source, vectors[offset : offset + TILE][kept], part.filter(kept)

    def folder_of(self, row: int) -> Path:
        """Return the folder of embeddings that a row lies in, which may be one that was added."""
        return self.metadata[self._part_of(row)].parent.parent

    def source_of(self, row: int) -> str:
        """Return the source that a row was embedded from."""
        folder = self.folder_of(row)
        return self._source_in(folder)

    def alive(self, row: int) -> bool:
        """Whether there is such a row, and it was not removed."""
        return 0 <= row < len(self._alive) and bool(self._alive[row])

    def _part_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _row(self, row: int) -> dict[str, Any]:
        number = self._part_of(row)
        return self._metadata(number).slice(row - int(self._starts[number]), 1).to_pylist()[0]

    def _read(self, number: int, names: Sequence[str] = ()) -> Any:
        """Return columns of one metadata file, by default all that a folder has; one that this file's
        folder lacks is null."""
        names = names or tuple(self.kinds)
        have = {**ALWAYS, **self.columns[number]}
        own = [name for name in names if name in have]
        table = self._whole(number, read_table(self.metadata[number], own or ("position",)))
        for name in names:
            if name not in have:
                nulls = arrow(self.kinds[name], [None] * table.num_rows)
                table = table.append_column(name, nulls)
        return table.select(list(names))

    def _whole(self, number: int, table: Any) -> Any:
        if table.num_rows != len(self.vectors[number]):
            raise InputError(
                f"{self.metadata[number]} has {table.num_rows} rows for {len(self.vectors[number])} vectors; copy the "
                "folder again or run `diptych embed`"
            )
        return table


def embeddings(
    folder: Path, several: bool = False
) -> tuple[Manifest, list[np.ndarray], list[Path]]:
    """Return the manifest, mapped vectors and metadata files of one folder, after checking their
    counts. Raises InputError for rows with several vectors, unless `several` asks for them."""
    manifest = Manifest.read(folder)
    if manifest.vectors > 1 and not several:
        raise InputError(
            f"{folder} keeps {manifest.vectors} vectors of an image, which `diptych search` alone compares; embed "
            "with a model that has one"
        )
    shape = manifest.dimension, manifest.vectors
    vectors = [mapped(path, *shape) for path in parts_of(folder, manifest.kind)]
    metadata = parts_of(folder, "metadata")
    count = sum(map(len, vectors))
    if count != manifest.count or len(metadata) != len(vectors):
        raise InputError(
            f"{folder} holds {count} vectors and {len(metadata)} metadata files where diptych.json says "
            f"{manifest.count} and {len(vectors)}; copy the folder again or run `diptych embed`"
        )
    return manifest, vectors, metadata


def mapped(path: Path, dimension: int, several: int = 1) -> np.ndarray:
    """Return the rows (N, dimension) of a part file, which is read lazily; a row is a vector, or
    `several` side by side.

    Raises InputError if it is damaged, or if vectors of its rows (`_SAMPLED` of them, spread over the
    file) have neither unit length nor zero length.
    """
    try:
        # Copy-on-write: as lazy as read-only, and torch accepts it without a copy.
        vectors = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{path} is damaged ({error}); copy it again or run `diptych embed`"
        ) from None
    fits = vectors.ndim == 2 and vectors.shape[1] == dimension and dimension % several == 0
    if not fits or vectors.dtype != np.float32:
        raise InputError(
            f"{path} holds {vectors.dtype} {vectors.shape} where diptych.json says float32 (…, {dimension}); "
            "run `diptych embed` again"
        )
    rows = np.unique(np.linspace(0, max(0, len(vectors) - 1), _SAMPLED).astype(int))[: len(vectors)]
    each = take([vectors], rows).reshape(len(rows), several, dimension // several)
    lengths = np.linalg.norm(each, axis=2)
    wrong = ~(np.abs(lengths - 1) < _OFF) & (lengths != 0)  # a row without a caption has zeros
    if wrong.any():
        row, vector = np.argwhere(wrong)[0]
        raise InputError(
            f"row {rows[row]} of {path} has length {lengths[row, vector]:.4g} and not 1, so that products are no "
            "cosines; run `diptych embed` again"
        )
    return vectors


def read_table(path: Path, columns: Sequence[str] = tuple(ALWAYS)) -> Any:
    """Return columns of a metadata file, as a pyarrow table. Raises InputError if it is damaged."""
    # not pyarrow's read_table, which imports pandas and takes folders such as price=3 for columns
    with _undamaged(path), parquet().ParquetFile(path) as file:
        table = file.read(columns=list(columns))
        return table.select(list(columns))  # KeyError for a column that the file lacks


def read_schema(path: Path) -> Any:
    """Return the pyarrow schema of a metadata file. Raises InputError if it is damaged."""
    with _undamaged(path):
        return parquet().read_schema(path)


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (
        ValueError,
        OSError,
        KeyError,
    ) as error:  # pyarrow raises these for a truncated file or missing columns
        raise InputError(
            f"{path} is damaged ({error}); copy it again or run `diptych embed`"
        ) from None
