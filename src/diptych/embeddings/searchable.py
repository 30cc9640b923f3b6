"""What a folder of embeddings and a store of them have in common for those who search."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

from diptych.embeddings.columns import Kind
from diptych.embeddings.hits import Hits
from diptych.embeddings.layout import Manifest
from diptych.models.model import TextModel


class Searchable(Protocol):
    """Rows with vectors, numbered from 0; those that were removed keep their numbers.

    Dimensions: Q queries, N rows, removed ones included, E embedding, K hits.
    """

    manifest: Manifest

    @property
    def name(self) -> str:
        """What messages call it: its folder or its address."""
        ...

    @property
    def places(self) -> list[str]:
        """The paths that messages may name."""
        ...

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The columns of its rows, in any of its folders."""
        ...

    @property
    def stamp(self) -> str:
        """What distinguishes these rows from others that it held or will hold."""
        ...

    @property
    def most(self) -> int:
        """The largest `k` that an index answers; searches for more hits are exact."""
        ...

    @property
    def kept(self) -> np.ndarray:
        """Which rows (N,) are not removed."""
        ...

    def __len__(self) -> int:
        """The number of rows that are not removed."""
        ...

    def check(self, model: TextModel) -> None:
        """Raise InputError for a model other than the one that made the embeddings."""
        ...

    def top(
        self, queries: Tensor, k: int = 10, among: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return cosines (Q, K), descending, and rows (Q, K); of equal cosines the lower row first.
        With `among` (N,) the search is exact and among these rows."""
        ...

    def passing(self, where: str) -> np.ndarray:
        """Return which rows (N,) pass a filter (`embeddings.where`)."""
        ...

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of the vectors (N, E) of rows (N,)."""
        ...

    def hits(self, scores: Tensor, rows: Tensor) -> Hits:
        """Return the data of the rows (K,) of one query."""
        ...

    def source_of(self, row: int) -> str:
        """Return the source that a row was embedded from."""
        ...

    def alive(self, row: int) -> bool:
        """Whether there is such a row, and it was not removed."""
        ...
