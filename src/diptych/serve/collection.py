"""One folder or store of embeddings as the server offers it: its index, its model and its images."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.embeddings.addresses import is_store, open_searchable
from diptych.embeddings.hits import Hit
from diptych.embeddings.index import Index
from diptych.embeddings.lance.table import Address
from diptych.embeddings.layout import Manifest
from diptych.embeddings.map import Map
from diptych.embeddings.query import Asked, vectors
from diptych.embeddings.searchable import Searchable
from diptych.errors import InputError
from diptych.serve.batched import Batched
from diptych.serve.encoder import Encoder
from diptych.serve.limits import Limits, Refused
from diptych.serve.pictures import Pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a collection: its number, its metadata as a hit, and its place on the map, if there
    is one; of a row that was not searched for, the score is 0."""

    number: int
    hit: Hit
    place: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Near-duplicates: how many rows, the largest cosine among them, and the first of them."""

    count: int
    cosine: float
    rows: list[Row]


class Collection:
    """A folder or store of embeddings that answers searches. `encoder` holds the model that made it.

    `source` is where its data lie now, by default where they were embedded from.

    Raises InputError for another model than that of the folder.
    """

    def __init__(
        self,
        name: str,
        index: Searchable,
        encoder: Encoder,
        limits: Limits,
        *,
        source: str | None = None,
    ):
        index.check(encoder.model)
        self.name = name
        self.index = index
        self.encoder = encoder
        self.limits = limits
        self.top = Batched(self._top)
        self.map, self.map_problem = _map_of(index)
        self._duplicates = lru_cache(maxsize=8)(self._groups)
        self._source = source
        self._pictures: dict[str, Pictures | InputError] = {}
        self._opening = Lock()
        self._decoding = BoundedSemaphore(limits.decoders)

    @property
    def manifest(self) -> Manifest:
        """What the folder says of itself."""
        return self.index.manifest

    @cached_property
    def version(self) -> str:
        """What distinguishes this state of the folder from that after it is embedded again."""
        return hashlib.sha256(self.index.stamp.encode()).hexdigest()[:12]

    @cached_property
    def images_problem(self) -> str | None:
        """Why the images of the rows cannot be shown, or None if they can."""
        if self.manifest.rows == "texts":
            return "its rows are texts"
        row = int(self._alive[0])
        try:
            pictures = self._pictures_of(row)
            hit = self._rows_of([row])[0].hit
            pictures.check(hit.position, hit.key)
        except InputError as error:
            return str(error)
        return None

    def read(self, data: bytes) -> Tensor:
        """Decode and preprocess an uploaded image, as the images of the folder were."""
        return self.encoder.read(data, exact=self.manifest.exact)

    def search(
        self, asked: Sequence[Asked], k: int, offset: int = 0, where: str | None = None
    ) -> list[list[Row]]:
        """Return `k` rows for each query, best first, after leaving out the first `offset`; with
        `where`, of those that pass this filter.

        Rows that a query is made of are not found by it. Images of a query are tensors that `read`
        returned. Raises Refused for a row that is not there, a sum of zero, and a filter that does
        not fit.
        """
        self.passing(where)
        for each in asked:
            for row in each.rows:
                self.check_row(row)
        with self.encoder.errors():
            queries = vectors(asked, self.index, self.encoder.texts, self.encoder.images)
        wanted = [
            (query, offset + k + len(each.rows), where)
            for query, each in zip(queries, asked, strict=True)
        ]
        found = []
        for each, (scores, rows) in zip(
            asked, self.top.ask(wanted, self.limits.seconds), strict=True
        ):
            kept = [at for at, row in enumerate(rows.tolist()) if row not in each.rows]
            chosen = kept[offset : offset + k]
            found.append(self._found(scores[chosen], rows[chosen]))
        return found

    def browse(self, k: int, offset: int = 0, where: str | None = None) -> list[Row]:
        """Return `k` rows of an order that visits all of them once, far from each other, after
        leaving out the first `offset`; with `where`, of those that pass this filter."""
        return self._rows_of(self._spread(offset, k, where).tolist())

    def map_of(self, max_points: int, where: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (n,), at most `max_points`, and their places on the map (n, 2) in the unit square; of
        more, those that `browse` returns first; with `where`, of those that pass this filter.

        Raises Refused if there is no map.
        """
        made = self._mapped()
        rows = self._spread(0, max_points, where)
        return rows, made.places(rows)

    def outliers(self, k: int, offset: int = 0, where: str | None = None) -> tuple[int, list[Row]]:
        """Return the number of rows, and `k` of them, those farthest from all others first, after
        leaving out the first `offset`; the score is the mean cosine with the nearest.

        Raises Refused if there is no map.
        """
        rows, means = self._mapped().outliers(self.passing(where))
        page = slice(offset, offset + k)
        found = self._found(torch.from_numpy(means[page]), torch.from_numpy(rows[page]))
        return len(rows), found

    def duplicates(
        self, cosine: float, k: int, offset: int = 0, where: str | None = None
    ) -> tuple[int, list[Group]]:
        """Return the number of groups of rows that are joined by cosines of at least `cosine`, and `k`
        of them, the largest first, after leaving out the first `offset`.

        Raises Refused if there is no map.
        """
        groups = self._duplicates(cosine, where)
        found = [
            Group(
                count=len(group.rows),
                cosine=group.cosine,
                rows=self._rows_of(group.rows[: self.limits.k].tolist()),
            )
            for group in groups[offset : offset + k]
        ]
        return len(groups), found

    def total(self, where: str | None = None) -> int:
        """Return the number of rows, or of those that pass a filter."""
        passing = self.passing(where)
        return len(self.index) if passing is None else int(passing[self._alive].sum())

    def passing(self, where: str | None) -> np.ndarray | None:
        """Return which rows, removed ones included, pass a filter; None if there is no filter.

        Raises Refused for a text that is no filter, an unknown column, and values that cannot be
        compared so.
        """
        if where is None:
            return None
        try:
            return self.index.passing(where)
        except InputError as error:
            said = str(error)
            for place in self.index.places:
                said = said.replace(place, self.name)  # clients see no path
            raise Refused(422, said) from None

    def row(self, row: int) -> Row:
        """Return one row. Raises Refused if there is none."""
        self.check_row(row)
        return self._rows_of([row])[0]

    def vectors_of(self, rows: Sequence[int]) -> Tensor:
        """Return the vectors (N, E) of rows. Raises Refused for one that is not there."""
        for row in rows:
            self.check_row(row)
        return torch.from_numpy(self.index.rows(np.array(rows, int)))

    def picture(self, row: int, size: int) -> tuple[bytes, str]:
        """Return the image of a row, fitted into `size` pixels, as bytes with their media type; that of a
        region shows its box.

        Raises Refused if there is no such row or image.
        """
        hit = self.row(row).hit
        return self._shown(row).small(hit.position, hit.key, size, hit.box)

    def pixels_of(self, row: int) -> Tensor:
        """Return the preprocessed image or clip of a row. Raises Refused as `picture`, and for regions,
        which are read with their image."""
        if self.manifest.rows == "regions":
            raise Refused(
                422, "the rows of this collection are regions, and whole images are named"
            )
        hit = self.row(row).hit
        image = self._shown(row).image(hit.position, hit.key, "frames")
        return self.encoder.pixels(image, exact=self.manifest.exact)

    def check_row(self, row: int) -> None:
        """Raise Refused if there is no such row, or it was removed."""
        if not self.index.alive(row):
            raise Refused(404, f"there is no row {row} in this collection")

    def close(self) -> None:
        """End the thread."""
        self.top.close()

    @cached_property
    def _alive(self) -> np.ndarray:
        return np.flatnonzero(self.index.kept)

    def _spread(self, offset: int, k: int, where: str | None) -> np.ndarray:
        """Return `k` rows of the order of `browse`."""
        passing = self.passing(where)
        rows = self._alive if passing is None else self._alive[passing[self._alive]]
        places = np.arange(offset, min(offset + k, len(rows)))
        return rows[places * _stride(len(rows)) % max(len(rows), 1)]

    def _mapped(self) -> Map:
        if self.map is None and not isinstance(self.index, Index):
            raise Refused(404, "this collection is a store; maps are of folders of embeddings")
        if self.map is None:
            raise Refused(404, "this collection has no map; `diptych index EMB --map` makes one")
        return self.map

    def _groups(self, cosine: float, where: str | None) -> list[Any]:
        return self._mapped().duplicates(cosine, self.passing(where))

    def _shown(self, row: int) -> Pictures:
        if self.manifest.rows == "texts":
            raise Refused(404, "the rows of this collection are texts")
        try:
            return self._pictures_of(row)
        except InputError:
            raise Refused(404, "the images of this collection are not where they were") from None

    def _pictures_of(self, row: int) -> Pictures:
        source = self.index.source_of(row)
        if self._source and source == self.manifest.source:
            source = self._source
        with self._opening:
            if source not in self._pictures:
                self._pictures[source] = self._opened(source)
        found = self._pictures[source]
        if isinstance(found, InputError):
            raise found
        return found

    def _opened(self, source: str) -> Pictures | InputError:
        try:
            return Pictures(source, self._decoding)
        except InputError as error:
            return error

    def _rows_of(self, rows: Sequence[int]) -> list[Row]:
        return self._found(torch.zeros(len(rows)), torch.tensor(list(rows), dtype=torch.long))

    def _found(self, scores: Tensor, rows: Tensor) -> list[Row]:
        hits = self.index.hits(scores, rows)
        return [
            Row(number=row, hit=hit, place=None if self.map is None else self.map.place(row))
            for row, hit in zip(rows.tolist(), hits, strict=True)
        ]

    def _top(self, wanted: list[tuple[Tensor, int, str | None]]) -> list[tuple[Tensor, Tensor]]:
        """Search for several queries at once, those with the same filter together. The index answers
        up to its own number of hits, and more are searched exactly: neither depends on the other
        queries."""
        groups: dict[tuple[str | None, bool], list[int]] = {}
        for at, (_, k, where) in enumerate(wanted):
            groups.setdefault((where, k <= self.index.most), []).append(at)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for (where, _), group in groups.items():
            most = max(wanted[at][1] for at in group)
            queries = torch.stack([wanted[at][0] for at in group])
            scores, rows = self.index.top(queries, most, self.passing(where))
            for place, at in enumerate(group):
                found[at] = (scores[place, : wanted[at][1]], rows[place, : wanted[at][1]])
        return [found[at] for at in range(len(wanted))]


def _map_of(index: Searchable) -> tuple[Map | None, str | None]:
    """Return the map of an index, if there is one, or why it cannot be shown."""
    if not isinstance(index, Index):
        return None, None
    try:
        return Map.open(index), None
    except InputError as error:
        return None, str(error)


def _stride(count: int) -> int:
    """Return a number without common divisor with `count`, about .62 of it, so that its multiples
    modulo `count` are spread over all rows."""
    stride = max(1, round(0.618034 * count))
    while gcd(stride, count) != 1:
        stride += 1
    return stride


def named(folders: Sequence[str | Path]) -> list[str]:
    """Return a name for each folder or store of embeddings, which is used in addresses: that of the
    folder, with a number where two are the same.

    >>> named(["demo/embeddings", "a/emb", "b/emb", "lancedb:s3://shop/emb:version=2"])
    ['embeddings', 'emb', 'emb-2', 'emb-3']
    """
    names: list[str] = []
    for folder in folders:
        path = Address.parse(str(folder)).path if is_store(folder) else folder
        plain = Path(path).resolve().name or "emb"
        count = 1
        name = plain
        while name in names:
            count += 1
            name = f"{plain}-{count}"
        names.append(name)
    return names


Loader = Callable[[Searchable], Any]
"""Loads the model of what was opened."""


def open_collections(
    folders: Sequence[str | Path],
    load: Loader,
    limits: Limits,
    *,
    exact: bool = False,
    source: str | None = None,
) -> list[Collection]:
    """Open folders and stores of embeddings; those of one model share it.

    Raises InputError as `open_searchable` and `load` do, for one that is named twice, and for a
    `source` of several.
    """
    if source is not None and len(folders) > 1:
        raise InputError("--source says where the data of one folder lie; serve one folder with it")
    seen = {str(each) if is_store(each) else Path(each).expanduser().resolve() for each in folders}
    if len(seen) < len(folders):
        raise InputError("a folder of embeddings is named twice; name each once")
    encoders: dict[tuple[Any, ...], Encoder] = {}
    found = []
    for name, folder in zip(named(folders), folders, strict=True):
        index = open_searchable(folder, exact=exact)
        same = (index.manifest.identity, index.manifest.share, index.manifest.space)
        if same not in encoders:
            encoders[same] = Encoder(load(index), limits)
        found.append(Collection(name, index, encoders[same], limits, source=source))
    return found
