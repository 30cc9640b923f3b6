"""Search in a folder of embeddings: exactly, or with the index that `diptych index` made (see
`diptych.embeddings.ivf`).

Exact search compares every vector, read through a memory map in tiles: a million vectors of 512
dimensions take a fraction of a second on two cores and little memory.

Dimensions: Q queries, N rows, E embedding, K hits.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.images import FileImage, on_ground
from diptych.data.sample import BadSample
from diptych.embeddings.columns import ALWAYS, Kind, Value
from diptych.embeddings.ivf import STATE, Ivf, Part, State, anew, fingerprint
from diptych.embeddings.layout import Manifest, parquet, parts_of
from diptych.embeddings.vectors import take
from diptych.embeddings.where import parse
from diptych.errors import InputError, located
from diptych.models.model import TextModel
from diptych.results import Markup, Tabular, html_table

TILE = 16_384
"""The number of rows compared at once: 32 MB of vectors of 512 dimensions."""

_SAMPLED = 1024  # rows of a file whose length is checked when it is opened
_OFF = 1e-3  # tolerance of the length of a unit vector
_KINDS: Mapping[str, Kind] = {
    "key": "text",
    "position": "int",
    "image_path": "text",
    "caption": "text",
}

_KEPT = 64  # parts of metadata in memory, of up to 100,000 rows each


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One result: `rank` from 1, `score` the cosine, `position` in the source, `image_path` "" in a
    tar, `columns` the kept columns of the source."""

    rank: int
    score: float
    key: str
    position: int
    image_path: str
    caption: str | None
    columns: Mapping[str, Value] = field(default_factory=dict, hash=False)


class Hits(Tabular, list[Hit]):
    """The results of one query, best first."""

    def records(self) -> list[dict[str, Any]]:
        """A row for each hit, the kept columns behind the others."""
        rows = [asdict(hit) for hit in self]
        return [row | row.pop("columns") for row in rows]

    def _repr_html_(self) -> str:
        shown = [
            {
                "#": hit.rank,
                "image": _thumbnail(hit.image_path),
                "cosine": hit.score,
                "key": hit.key,
                "caption": hit.caption,
                **hit.columns,
            }
            for hit in self
        ]
        return html_table(self.title, shown)


def _thumbnail(path: str, side: int = 128) -> Markup | None:
    """An image file as HTML, small; None if it is not, or no longer, there."""
    try:
        image = FileImage(path).decode(side)
    except BadSample:
        return None
    image.thumbnail((side, side))
    data = io.BytesIO()
    on_ground(image).save(data, "JPEG")
    return Markup(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
    )


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
        self.removed = removed
        self.ivf = ivf
        self._starts = np.cumsum([0, *map(len, vectors)])
        self._alive = np.ones(self._starts[-1], bool)
        self._alive[list(removed)] = False
        self._metadata = lru_cache(maxsize=_KEPT)(self._read)
        self.passing = lru_cache(maxsize=8)(self._passing)

    @classmethod
    def open(cls, folder: str | Path, *, exact: bool = False) -> "Index":
        """Map the files that `diptych embed` wrote, and the index that `diptych index` made of
        them, if there is one.

        `exact` compares every vector nevertheless; rows added to the index are found, removed rows
        are not. Raises InputError if files are missing, truncated or do not fit together, or if the
        index belongs to another model.
        """
        folder = Path(folder).expanduser()
        manifest, vectors, metadata = embeddings(folder)
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
    def kept(self) -> np.ndarray:
        """Which rows (N,) are not removed."""
        return self._alive

    def __len__(self) -> int:
        return len(self._alive) - len(self.removed)

    def check(self, model: TextModel) -> None:
        """Raise InputError for a model other than the one that made these embeddings: the cosines
        would be meaningless."""
        if model.identity != self.manifest.identity:
            raise InputError(
                f"{self.folder} was embedded with {self.manifest.model} ({self.manifest.identity[:12]}), which is not "
                f"{model.name} ({model.identity[:12]}); search with that model, or embed again with this one"
            )

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
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dimension:
            raise InputError(
                f"queries of shape {tuple(queries.shape)} do not fit {self.folder}, whose vectors have "
                f"{self.manifest.dimension} numbers; embed them with {self.manifest.model}"
            )
        if k < 1:
            raise InputError(f"k is {k}; ask for at least 1 hit")
        queries = queries.detach().cpu().float()
        if among is not None:
            return self._exact(queries, k, self._alive & among)
        if self.ivf is None or k > self.ivf.state.k:
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
        scores = queries.new_empty(len(queries), 0)
        rows = torch.empty(len(queries), 0, dtype=torch.long)
        for start, vectors in zip(self._starts, self.vectors, strict=False):
            for offset in range(0, len(vectors), TILE):
                tile = torch.from_numpy(vectors[offset : offset + TILE])
                first = int(start) + offset
                here = torch.arange(len(tile)) + first
                if among is not None:
                    kept = torch.from_numpy(among[first : first + len(tile)])
                    if not kept.any():
                        continue
                    tile = tile[kept]
                    here = here[kept]
                found = queries @ tile.T
                columns = best(found, k)
                scores = torch.cat([scores, found.gather(1, columns)], dim=1)
                rows = torch.cat([rows, here[columns]], dim=1)
                columns = best(scores, k)
                scores = scores.gather(1, columns)
                rows = rows.gather(1, columns)
        return scores, rows

    def _passing(self, where: str) -> np.ndarray:
        """Return which rows (N,), removed ones included, pass a filter (`embeddings.where`).

        Raises InputError for a text that is no filter, an unknown column, and values that cannot be
        compared so. The result is kept for the next search.
        """
        filter = parse(where)
        masks: list[np.ndarray] = []
        for number, path in enumerate(self.metadata):
            folder = path.parent.parent
            filter.check({**_KINDS, **self.columns[number]}, str(folder))
            table = self._whole(number, read_table(path, filter.columns or ("position",)))
            with located(str(folder)):
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
            values = self._row(row)
            always = {name: values.pop(name) for name in ALWAYS}
            found.append(Hit(rank=rank, score=score, columns=values, **always))
        return found

    def folder_of(self, row: int) -> Path:
        """Return the folder of embeddings that a row lies in, which may be one that was added."""
        return self.metadata[self._part_of(row)].parent.parent

    def alive(self, row: int) -> bool:
        """Whether there is such a row, and it was not removed."""
        return 0 <= row < len(self._alive) and bool(self._alive[row])

    def _part_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _row(self, row: int) -> dict[str, Any]:
        number = self._part_of(row)
        return self._metadata(number).slice(row - int(self._starts[number]), 1).to_pylist()[0]

    def _read(self, number: int) -> Any:
        names = (*ALWAYS, *self.columns[number])
        return self._whole(number, read_table(self.metadata[number], names))

    def _whole(self, number: int, table: Any) -> Any:
        if table.num_rows != len(self.vectors[number]):
            raise InputError(
                f"{self.metadata[number]} has {table.num_rows} rows for {len(self.vectors[number])} vectors; copy the "
                "folder again or run `diptych embed`"
            )
        return table


def best(scores: Tensor, k: int) -> Tensor:
    """Return the columns (Q, K) of the `k` largest scores (Q, N) of each row, descending; of equal
    ones the lower column first.

    >>> best(torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]]), 2)
    tensor([[1, 2]])
    """
    k = min(k, scores.shape[1])
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k and bool((values[:, k] == values[:, k - 1]).any()):
        columns = _first_equals(scores, values[:, k - 1 : k], k)
    columns = columns[:, :k].sort(dim=1).values
    order = scores.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)


def _first_equals(scores: Tensor, worst: Tensor, k: int) -> Tensor:
    """Return the columns (Q, k), ascending, of the scores above `worst` (Q, 1), the k-th best, and of
    the first of its equals, of which topk may keep any."""
    above = scores > worst
    equal = scores == worst
    keep = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    return keep.nonzero()[:, 1].view(len(scores), k)


def embeddings(folder: Path) -> tuple[Manifest, list[np.ndarray], list[Path]]:
    """Return the manifest, mapped vectors and metadata files of one folder, after checking their
    counts."""
    manifest = Manifest.read(folder)
    vectors = [mapped(path, manifest.dimension) for path in parts_of(folder, manifest.kind)]
    metadata = parts_of(folder, "metadata")
    count = sum(map(len, vectors))
    if count != manifest.count or len(metadata) != len(vectors):
        raise InputError(
            f"{folder} holds {count} vectors and {len(metadata)} metadata files where diptych.json says "
            f"{manifest.count} and {len(vectors)}; copy the folder again or run `diptych embed`"
        )
    return manifest, vectors, metadata


def mapped(path: Path, dimension: int) -> np.ndarray:
    """Return the vectors (N, dimension) of a part file, which is read lazily.

    Raises InputError if it is damaged, or if its vectors (`_SAMPLED` of them, spread over the
    file) have neither unit length nor zero length.
    """
    try:
        # Copy-on-write: as lazy as read-only, and torch accepts it without a copy.
        vectors = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{path} is damaged ({error}); copy it again or run `diptych embed`"
        ) from None
    if vectors.ndim != 2 or vectors.shape[1] != dimension or vectors.dtype != np.float32:
        raise InputError(
            f"{path} holds {vectors.dtype} {vectors.shape} where diptych.json says float32 (…, {dimension}); "
            "run `diptych embed` again"
        )
    rows = np.unique(np.linspace(0, max(0, len(vectors) - 1), _SAMPLED).astype(int))[: len(vectors)]
    lengths = np.linalg.norm(take([vectors], rows), axis=1)
    wrong = ~(np.abs(lengths - 1) < _OFF) & (lengths != 0)  # a row without a caption has zeros
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"row {rows[row]} of {path} has length {lengths[row]:.4g} and not 1, so that products are no "
            "cosines; run `diptych embed` again"
        )
    return vectors


def read_table(path: Path, columns: Sequence[str] = ALWAYS) -> Any:
    """Return columns of a metadata file, as a pyarrow table. Raises InputError if it is damaged."""
    try:
        # Folders with names such as price=3 give no columns.
        table = parquet().read_table(path, columns=list(columns), partitioning=None)
        return table.select(list(columns))  # KeyError for a column that the file lacks
    except (
        ValueError,
        OSError,
        KeyError,
    ) as error:  # pyarrow raises these for a truncated file or missing columns
        raise InputError(
            f"{path} is damaged ({error}); copy it again or run `diptych embed`"
        ) from None
