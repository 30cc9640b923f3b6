"""Exact search among vectors that are read tile by tile.

Dimensions: Q queries, N rows, T rows of a tile, S vectors of a row, E embedding, K hits.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from diptych.embeddings.layout import Manifest
from diptych.errors import InputError
from diptych.metrics import similarities
from diptych.models.model import TextModel

TILE = 16_384
"""The number of rows compared at once: 32 MB of vectors of 512 dimensions."""


def check_model(name: str, manifest: Manifest, model: TextModel) -> None:
    """Raise InputError for a model other than the one that made the embeddings called `name`."""
    if model.identity != manifest.identity:
        raise InputError(
            f"{name} was embedded with {manifest.model} ({manifest.identity[:12]}), which is not "
            f"{model.name} ({model.identity[:12]}); search with that model, or embed again with this one"
        )


def check_queries(name: str, manifest: Manifest, queries: Tensor, k: int) -> None:
    """Raise InputError for queries that are not (Q, E), and for a `k` below 1."""
    numbers = manifest.dimension // manifest.vectors
    if queries.ndim != 2 or queries.shape[1] != numbers:
        raise InputError(
            f"queries of shape {tuple(queries.shape)} do not fit {name}, whose vectors have "
            f"{numbers} numbers; embed them with {manifest.model}"
        )
    if k < 1:
        raise InputError(f"k is {k}; ask for at least 1 hit")


def nearest(
    queries: Tensor, k: int, tiles: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[Tensor, Tensor]:
    """Return the `k` best rows for each query (Q, E), as `Index.top`, of tiles: row numbers (T,),
    ascending through all tiles, and their vectors (T, E), or (T, S E), of which the best one counts."""
    scores = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long)
    for here, vectors in tiles:
        each = torch.from_numpy(vectors).unflatten(1, (-1, queries.shape[1]))
        found = similarities(queries, each)
        columns = best(found, k)
        scores = torch.cat([scores, found.gather(1, columns)], dim=1)
        rows = torch.cat([rows, torch.from_numpy(here)[columns]], dim=1)
        columns = best(scores, k)
        scores = scores.gather(1, columns)
        rows = rows.gather(1, columns)
    return scores, rows


def ordered(scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the columns of both (Q, C) by score, best first, of equal ones the lower row first."""
    rows, order = rows.sort(dim=1, stable=True)  # indices do not define the order of equal scores
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, rows.gather(1, order)


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
