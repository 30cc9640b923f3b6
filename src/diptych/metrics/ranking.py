"""Ranks of right items among scores of queries with a gallery, and metrics of them.

A right item that ties with a wrong one ranks behind it (`diptych.metrics`).

Dimensions: Q queries, G gallery items, K vectors of one of them, E embedding.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from diptych.errors import InputError
from diptych.metrics.arrays import TIE, Array, finite

Positives = Sequence[Sequence[int]] | Array
"""For each query its right gallery items, at least one; as an array (Q,), exactly one per query."""


def ranks(
    queries: Array,
    gallery: Array,
    positives: Positives,
    *,
    ignored: Positives | None = None,
    tile: int = 128,
) -> np.ndarray:
    """The rank of each query's best right item: 1 + the number of wrong items with the same or a
    higher score.

    queries (Q, E) or (Q, K, E) and gallery (G, E) or (G, K, E) are compared by `similarities`,
    `tile` vectors of queries at a time, with O(tile · G · K) memory. `ignored` are items that are
    neither right nor wrong, such as the query itself. Returns (Q,) integers. Raises InputError if a
    query has no right item or a value is not finite.

    >>> ranks(np.eye(3), np.eye(3), np.array([0, 1, 0]))  # the third ties with the wrong 1, and loses to 2
    array([1, 1, 3])
    """
    found = []
    for scores, owner, items, slack in _tiles(queries, gallery, positives, tile, ignored):
        own = scores[
            owner, items
        ]  # indexed, as the right items are few: no mask of the scores' size
        bar = torch.full_like(slack, -torch.inf).scatter_reduce(0, owner, own, "amax") - slack
        above = (scores >= bar[:, None]).sum(1, dtype=torch.int32)
        found.append(1 + above.index_add(0, owner, -(own >= bar[owner]).to(above.dtype)))
    return torch.cat(found).cpu().numpy().astype(np.int64)


def similarities(queries: Tensor, gallery: Tensor) -> Tensor:
    """Dot products (Q, G) of queries (Q, E) with items (G, E), or the largest over K of items (G,
    K, E), or of queries (Q, K, E).

    >>> similarities(torch.eye(2), torch.tensor([[[1.0, 0.0], [0.0, 0.5]], [[-1.0, 0.0], [0.0, 2.0]]]))
    tensor([[1.0000, 0.0000],
            [0.5000, 2.0000]])
    """
    found = queries.flatten(0, -2) @ gallery.flatten(0, -2).T
    if gallery.dim() == 3:
        found = found.unflatten(1, gallery.shape[:2]).amax(2)
    return found if queries.dim() == 2 else found.unflatten(0, queries.shape[:2]).amax(1)


def first(
    queries: Array, gallery: Array, positives: Positives, k: int, *, tile: int = 128
) -> np.ndarray:
    """The first k items of each query (Q, k), or all if there are fewer.

    In a tie, wrong items come first, in the order of the gallery.

    So a right item is among them exactly if its rank by `ranks` is at most k.

    >>> first(np.eye(3), np.eye(3), np.array([1, 1, 2]), 2)  # for the first query 1 and 2 tie, and 1 is the right one
    array([[0, 2],
           [1, 0],
           [2, 0]])
    """
    found = []
    for scores, owner, items, slack in _tiles(queries, gallery, positives, tile):
        right = _mask(scores, owner, items)
        lowered = torch.where(right, scores - slack[:, None], scores).cpu().numpy()
        found.append(np.lexsort((right.cpu().numpy(), -lowered), axis=1)[:, :k])
    return np.concatenate(found)


def nearest(
    queries: Array, gallery: Array, k: int, *, tile: int = 256, wide: int = 16_384
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` items with the highest scores for each query, or all if there are fewer: their rows
    (Q, k) in descending order, and the scores (Q, k).

    queries (Q, E) and gallery (G, E) are compared by `similarities`, exactly, `tile` queries with
    `wide` items at a time, so that memory is O(tile · wide) beside the result. Items of equal score
    come in no particular order. Raises InputError for a value that is not finite.

    >>> rows, scores = nearest(np.eye(3), np.array([[0.0, 1, 0], [0.6, 0.8, 0]]), 1)
    >>> rows.ravel().tolist(), scores.ravel().tolist()
    ([1, 0, 0], [0.6, 1.0, 0.0])
    """
    q = finite("queries", queries)
    g = finite("gallery", gallery)
    if q.shape[1] != g.shape[1] or k < 1:
        raise InputError(
            f"queries of width {q.shape[1]}, a gallery of width {g.shape[1]} and the {k} nearest do not fit"
        )
    dtype = torch.promote_types(q.dtype, g.dtype)
    q, g = q.to(dtype), g.to(q.device, dtype)
    rows = []
    values = []
    for part in q.split(tile):
        best = part.new_empty(len(part), 0)
        at = torch.empty(len(part), 0, dtype=torch.int64, device=q.device)
        for start in range(0, len(g), wide):
            found, items = _top(similarities(part, g[start : start + wide]), k)
            best, order = _top(torch.cat([best, found], 1), k)
            at = torch.cat([at, items + start], 1).gather(1, order)
        rows.append(at)
        values.append(best)
    return torch.cat(rows).cpu().numpy(), torch.cat(values).cpu().numpy()


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = scores.topk(min(k, scores.shape[1]), dim=1)
    return found.values, found.indices


def ranks_of_two_stages(
    ranks: np.ndarray, chosen: np.ndarray, scores: np.ndarray, positives: Positives
) -> np.ndarray:
    """The ranks (Q,) after the items `chosen` (Q, k), each query's first by `ranks`, are reranked
    by `scores` (Q, k).

    A query without a right item among the chosen keeps its rank. Ties count against the model.

    >>> chosen, scores = np.array([[5, 3], [1, 2]]), np.array([[0.1, 0.7], [0.4, 0.2]])
    >>> ranks_of_two_stages(np.array([2, 9]), chosen, scores, [[3], [8]])
    array([1, 9])
    """
    right = np.array(
        [np.isin(items, wanted) for items, wanted in zip(chosen, positives, strict=True)]
    )
    best = np.where(right, scores, -np.inf).max(1)
    second = 1 + (~right & (scores >= best[:, None])).sum(1)
    return np.where(right.any(1), second, ranks)


def recall_at_k(
    queries: Array,
    gallery: Array,
    positives: Positives,
    ks: Sequence[int] = (1, 5, 10),
    *,
    tile: int = 128,
) -> dict[int, float]:
    """The share of queries with a right item among the first k, for each k (see `ranks`).

    >>> recall_at_k(np.eye(3), np.eye(3), [[0], [1], [0, 2]], ks=(1,))
    {1: 1.0}
    """
    rank = ranks(queries, gallery, positives, tile=tile)
    return {k: float((rank <= k).mean()) for k in ks}


def median_rank(queries: Array, gallery: Array, positives: Positives, *, tile: int = 128) -> float:
    """The median over queries of the best right item's rank (see `ranks`)."""
    return float(np.median(ranks(queries, gallery, positives, tile=tile)))


def mean_reciprocal_rank(
    queries: Array, gallery: Array, positives: Positives, *, tile: int = 128
) -> float:
    """The mean over queries of 1 / rank of the best right item (see `ranks`).

    >>> mean_reciprocal_rank(np.eye(2), np.eye(2), [[0], [0]])
    0.75
    """
    return float((1 / ranks(queries, gallery, positives, tile=tile)).mean())


def chance_recall(right: Sequence[int], gallery: int, k: int) -> float:
    """Recall at k of a random order: the mean over queries with `right[q]` right items among
    `gallery`.

        [C(gallery, k) - C(gallery - right, k)] / C(gallery, k)

    >>> chance_recall([1, 1], 4, 1), chance_recall([2], 4, 1)
    (0.25, 0.5)
    """
    k = min(k, gallery)
    values, counts = np.unique(np.asarray(right), return_counts=True)
    orders = math.comb(gallery, k)
    hit = [(orders - math.comb(gallery - int(value), k)) / orders for value in values]
    return float(np.average(hit, weights=counts))


def chance_reciprocal_rank(right: Sequence[int], gallery: int) -> float:
    """The mean reciprocal rank of a random order: `right[q]` right items of query q among
    `gallery`.

        sum_k 1/k · C(gallery - k, right - 1) / C(gallery, right)

    >>> round(chance_reciprocal_rank([1], 3), 4)  # (1 + 1/2 + 1/3) / 3
    0.6111
    """
    values, counts = np.unique(np.asarray(right), return_counts=True)
    place = np.arange(1, gallery + 1)
    means = []
    for value in values:
        later = (gallery - place[1:] - value + 2).clip(0) / (
            gallery - place[1:] + 1
        )  # P(first at k) / P(at k - 1)
        means.append((np.cumprod([value / gallery, *later]) / place).sum())
    return float(np.average(means, weights=counts))


def mean_average_precision(
    queries: Array, gallery: Array, positives: Positives, *, tile: int = 128
) -> float:
    """The mean over queries of the average precision, the mean over right items of the precision at
    their rank.

    With right items in descending order of score, the i-th has precision i / (i + number of wrong
    items with the same or a higher score).
    """
    total = 0.0
    count = 0
    for scores, owner, items, slack in _tiles(queries, gallery, positives, tile):
        right = _mask(scores, owner, items)
        wrong = (
            scores.masked_fill(right, torch.inf).sort(1).values
        )  # ascending; the right ones come last
        n_wrong = (~right).sum(1)
        n_right = torch.bincount(owner, minlength=len(scores))
        ordered = (
            scores.masked_fill(~right, -torch.inf).topk(int(n_right.max()), 1).values
        )  # (tile, most right items)
        above = n_wrong[:, None] - torch.searchsorted(
            wrong, (ordered - slack[:, None]).contiguous()
        )
        place = torch.arange(1, ordered.shape[1] + 1, device=scores.device)
        precision = place / (place + above)
        precision = precision.masked_fill(place > n_right[:, None], 0).double()
        total += float((precision.sum(1) / n_right).sum())
        count += len(scores)
    return total / count


def _tiles(
    queries: Array,
    gallery: Array,
    positives: Positives,
    tile: int,
    ignored: Positives | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For `tile` queries at a time, fewer where each has several vectors: scores (t, G), the right
    pairs as queries (P,) and items (P,), and the tolerance of ties (t,). Ignored items have score
    -inf."""
    q = finite("queries", queries, (2, 3))
    g = finite("gallery", gallery, (2, 3))
    if len(positives) != len(q) or q.shape[-1] != g.shape[-1]:
        raise InputError(
            f"{len(q)} queries of width {q.shape[-1]}, {len(positives)} lists of positives and a gallery of width "
            f"{g.shape[-1]} do not fit"
        )
    dtype = torch.promote_types(q.dtype, g.dtype)
    q, g = q.to(dtype), g.to(q.device, dtype)
    longest = g.norm(dim=-1).max()
    if q.dim() == 3:
        tile = max(1, tile // q.shape[1])
    for start in range(0, len(q), tile):
        owner, items, sizes = _pairs(positives[start : start + tile], q.device)
        if not sizes.all():
            raise InputError(
                f"query {start + int(np.argmin(sizes))} has no right item in the gallery; leave it out"
            )
        part = q[start : start + tile]
        scores = similarities(part, g)
        if ignored is not None:
            scores[_pairs(ignored[start : start + tile], q.device)[:2]] = -torch.inf
        yield scores, owner, items, TIE * longest * part.norm(dim=-1).view(len(part), -1).amax(1)


def _mask(scores: Tensor, owner: Tensor, items: Tensor) -> Tensor:
    """True at the right pairs (t, G)."""
    right = torch.zeros_like(scores, dtype=torch.bool)
    right[owner, items] = True
    return right


def _pairs(lists: Positives, device: torch.device) -> tuple[Tensor, Tensor, np.ndarray]:
    """Lists of items as pairs (owner, item), and the number of different items of each list."""
    if isinstance(lists, Array) and lists.ndim == 1:
        items = torch.as_tensor(lists).to(device, torch.int64)
        return torch.arange(len(items), device=device), items, np.ones(len(items), int)
    rows = [np.unique(np.atleast_1d(np.asarray(items, np.int64))) for items in lists]
    sizes = np.array([row.size for row in rows])
    owner = torch.from_numpy(np.repeat(np.arange(len(rows)), sizes)).to(device)
    return owner, torch.from_numpy(np.concatenate(rows)).to(device), sizes
