"""The map of a folder of embeddings, made by `diptych index --map`: where each row lies in the plane,
and the rows nearest to it, which show near-duplicates and outliers.

    EMB/map.json     the `State`: of which rows the map is, and how it was made
    EMB/map-3.npy    a record for each row (see `_record`), mapped when it is read

map.json is replaced last and in one step and names its file, so that a reader finds the complete old
or new map. Rows that were removed before have no place, and no row is nearest to them.

Dimensions: N rows, E embedding, K nearest.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from diptych.embeddings.build import part_of
from diptych.embeddings.index import Index
from diptych.embeddings.ivf import Part, read_state
from diptych.embeddings.ivf import State as IndexState
from diptych.embeddings.layout import Manifest
from diptych.errors import InputError, brief, unknown
from diptych.files import locked, write_atomic
from diptych.spec import Count

FORMAT = "diptych-map/1"
STATE = "map.json"
NEAREST = 9
"""K: nearest rows that are kept for each: the ten that an index finds by default, less the row itself."""

SIMILAR = 0.95
"""The cosine from which two rows are near-duplicates, unless another one is asked for."""

Projection = Literal["pca", "umap"]
PROJECTIONS: tuple[Projection, ...] = ("pca", "umap")

_FILE = re.compile(r"map-\d{1,9}\.npy")
_FITTED = 50_000  # rows, spread over all, that a projection is fitted to
_QUERIES = 256  # rows whose nearest are searched for at once
_CHUNK = 16_384  # rows projected at once


@dataclass(frozen=True, kw_only=True)
class State:
    """The rows that a map is of, and how it was made; `size` is that of `file` in bytes."""

    parts: tuple[Part, ...]
    projection: Projection
    nearest: Count
    file: str
    size: Count
    format: str = FORMAT

    def write(self, folder: Path) -> None:
        """Write EMB/map.json in one step."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        write_atomic(folder / STATE, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, folder: Path) -> "State | None":
        """Read EMB/map.json; None if there is none. Raises InputError if it is damaged or of another
        format."""
        values = read_state(cls, folder / STATE, (FORMAT,), anew(folder))
        if values is None:
            return None
        state = cls(**values)
        if _FILE.fullmatch(state.file) is None:
            raise InputError(f"{folder / STATE} is damaged (file {state.file!r}); {anew(folder)}")
        return state

    @property
    def rows(self) -> int:
        """The number of rows of all parts."""
        return sum(part.count for part in self.parts)


def anew(folder: Path) -> str:
    """Return the remedy for a map that cannot be used."""
    return f"make it anew with `diptych index {folder} --map`"


def build_map(
    folder: str | Path,
    projection: Projection = "pca",
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> State:
    """Make EMB/map.json and its file, of all rows that a search in EMB finds.

    Rows are projected by the first two principal components, or by UMAP (`projection="umap"`,
    with umap-learn installed), fitted to at most 50,000 of them, and moved and scaled into the unit
    square. The nearest rows of each are found by the index, if there is one, else exactly, which
    takes time that grows with the square of the rows. `progress` receives the rows done and their
    number.

    Raises InputError for a projection that does not exist or is not installed, fewer than three rows,
    a full disk, and another build in progress. The previous map then stays in use.
    """
    folder = Path(folder).expanduser()
    if projection not in PROJECTIONS:
        raise unknown("projection", projection, PROJECTIONS)
    Manifest.read(folder)
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written to; copy it to where you may write")
    coordinates = _umap if projection == "umap" else _pca
    with locked(folder, f"another build in {folder} is under way; wait for it"):
        old = State.read(folder)
        index = Index.open(folder)
        rows = np.flatnonzero(index.kept)
        if len(rows) < 3:
            raise InputError(f"{folder} has {len(rows)} rows; a map is of 3 or more")
        number = int(old.file.removeprefix("map-").removesuffix(".npy")) + 1 if old else 0
        file = f"map-{number}.npy"
        places = _in_square(coordinates(index, rows))

        def write(path: Path) -> None:
            records = np.lib.format.open_memmap(
                path, mode="w+", dtype=_record(NEAREST), shape=(len(index.kept),)
            )
            records["place"] = np.nan
            records["place"][rows] = places
            records["nearest"] = -1
            done = 0
            for chunk, nearest, cosines in _neighbours(index, rows):
                records["nearest"][chunk, : nearest.shape[1]] = nearest
                records["cosines"][chunk, : nearest.shape[1]] = cosines
                done += len(chunk)
                progress(done, len(rows))
            records.flush()

        write_atomic(folder / file, write)
        state = State(
            parts=_parts(folder),
            projection=projection,
            nearest=NEAREST,
            file=file,
            size=(folder / file).stat().st_size,
        )
        state.write(folder)
        for path in folder.glob("map-*.npy"):
            if path.name != file:
                path.unlink(missing_ok=True)
    return state


def _record(nearest: int) -> np.dtype:
    """The record of a row: its place, and its nearest rows with their cosines, best first (-1 where
    there are fewer)."""
    return np.dtype(
        [("place", "<f4", (2,)), ("nearest", "<i8", (nearest,)), ("cosines", "<f4", (nearest,))]
    )


def _parts(folder: Path) -> tuple[Part, ...]:
    """The folders that a search in a folder covers."""
    state = IndexState.read(folder)
    return state.parts if state is not None else (part_of(folder, folder),)


def _pca(index: Index, rows: np.ndarray) -> np.ndarray:
    """Return the coordinates (N, 2) of rows (N,)."""
    try:
        from sklearn.decomposition import PCA
    except ImportError:
        raise InputError(
            "a map needs scikit-learn; install it with: pip install 'diptych[search]'"
        ) from None
    with np.errstate(invalid="ignore"):  # equal rows have no variance to divide by
        fitted = PCA(n_components=2, random_state=0).fit(index.rows(_spread(rows)))
    return _projected(fitted, index, rows)


def _umap(index: Index, rows: np.ndarray) -> np.ndarray:
    """The same by another projection."""
    try:
        from umap import UMAP
    except ImportError:
        raise InputError(
            "this map needs umap-learn; install it with: pip install umap-learn, or make the map by pca"
        ) from None
    few = _spread(rows)
    model = UMAP(
        n_components=2,
        n_neighbors=min(15, len(few) - 1),
        metric="cosine",
        random_state=0,
        n_jobs=1,  # as the seed demands
    )
    model.fit(index.rows(few))
    return model.embedding_ if len(few) == len(rows) else _projected(model, index, rows)


def _spread(rows: np.ndarray) -> np.ndarray:
    """Return at most _FITTED of the rows, evenly spread."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), _FITTED))
    return rows[np.rint(places).astype(int)]


def _projected(model: Any, index: Index, rows: np.ndarray) -> np.ndarray:
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    return np.concatenate([model.transform(index.rows(chunk)) for chunk in chunks])


def _in_square(coordinates: np.ndarray) -> np.ndarray:
    """Move and scale coordinates (N, 2) into the unit square, both axes by the same factor, the
    shorter one in the middle.

    >>> _in_square(np.array([[0.0, 1.0], [4.0, 3.0]])).tolist()
    [[0.0, 0.25], [1.0, 0.75]]
    """
    least = coordinates.min(0)
    extent = coordinates.max(0) - least
    longest = extent.max() or 1.0
    return (coordinates - least) / longest + (1 - extent / longest) / 2


def _neighbours(
    index: Index, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield some of the rows, the nearest other rows (n, K) of each, and their cosines."""
    most = min(NEAREST, len(rows) - 1)
    if index.ivf is not None and index.ivf.state.k > 1:
        most = min(most, index.ivf.state.k - 1)  # of more hits a search compares every vector
    for start in range(0, len(rows), _QUERIES):
        chunk = rows[start : start + _QUERIES]
        cosines, found = index.top(torch.from_numpy(index.rows(chunk)), most + 1)
        own = (found == torch.from_numpy(chunk)[:, None]).to(torch.int8)
        # of more equal rows than are asked for, the row itself may be missing
        order = own.argsort(dim=1, stable=True)[:, :most]
        yield chunk, found.gather(1, order).numpy(), cosines.gather(1, order).numpy()


class Map:
    """The map of an index, opened by `Map.open`."""

    def __init__(self, index: Index, state: State, records: np.ndarray):
        self.index = index
        self.state = state
        self._records = records

    @classmethod
    def open(cls, index: Index) -> "Map | None":
        """Open the map of an index's folder; None if there is none.

        Raises InputError if it is damaged, or of other rows than the index has.
        """
        folder = index.folder
        state = State.read(folder)
        if state is None:
            return None
        if state.parts != _parts(folder):
            raise InputError(f"{folder / STATE} is of other rows than {folder}; {anew(folder)}")
        path = folder / state.file
        try:
            size = path.stat().st_size
            records = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path} is damaged ({brief(error)}); {anew(folder)}") from None
        if (size, records.dtype, records.shape) != (
            state.size,
            _record(state.nearest),
            (state.rows,),
        ):
            raise InputError(f"{path} is damaged ({records.dtype} {records.shape}); {anew(folder)}")
        return cls(index, state, records)

    def place(self, row: int) -> tuple[float, float] | None:
        """Return where a row lies in the unit square; None for one that had been removed."""
        x, y = self._records["place"][row].tolist()
        return None if np.isnan(x) else (x, y)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Return where rows (n,) lie (n, 2); NaN for those that had been removed."""
        return self._records["place"][rows]

    def outliers(self, passing: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (n,), those farthest from all others first, and the mean cosine of each with its
        nearest; with `passing` (N,) booleans, of these rows."""
        order, means = self._by_distance
        chosen = self._chosen(passing)[order]
        return order[chosen], means[chosen]

    def duplicates(
        self, cosine: float = SIMILAR, passing: np.ndarray | None = None
    ) -> "list[Group]":
        """Return groups of rows that are joined by cosines of at least `cosine`, the largest group
        first, and of equal ones the closest; with `passing` (N,) booleans, among these rows.

        A row is joined with at most its K nearest.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        chosen = self._chosen(passing)
        first, column = np.nonzero(self._records["cosines"] >= cosine)
        second = self._records["nearest"][first, column]
        both = (second >= 0) & chosen[first] & chosen[second]
        first = first[both]
        second = second[both]
        rows = np.unique(np.concatenate([first, second]))
        ends = np.searchsorted(rows, first), np.searchsorted(rows, second)
        links = coo_array((np.ones(len(first), bool), ends), shape=(len(rows), len(rows)))
        number, component = connected_components(links, directed=False)
        closest = np.full(number, -np.inf)
        cosines = self._records["cosines"][first, column[both]]
        np.maximum.at(closest, component[ends[0]], cosines)
        counts = np.bincount(component, minlength=number)
        members = np.split(rows[component.argsort(kind="stable")], counts.cumsum()[:-1])
        order = np.lexsort((-closest, -counts))
        return [Group(rows=members[at], cosine=float(closest[at])) for at in order]

    @cached_property
    def _by_distance(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows with neighbours, and the mean cosine of each with them, ascending."""
        there = self._records["nearest"] >= 0
        count = there.sum(1)
        rows = np.flatnonzero(count)
        means = np.where(there, self._records["cosines"], 0)[rows].sum(1) / count[rows]
        order = means.argsort(kind="stable")
        return rows[order], means[order]

    def _chosen(self, passing: np.ndarray | None) -> np.ndarray:
        return self.index.kept if passing is None else self.index.kept & passing


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Rows (n,), ascending, that are near-duplicates, and the largest cosine among them."""

    rows: np.ndarray
    cosine: float
