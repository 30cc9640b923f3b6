"""Retrieval and classification metrics as functions of arrays.

Ties are judged against the model everywhere: where a right and a wrong answer score the same, the wrong one goes first.
So a model that maps everything to one point gets 0, never a lucky hit, and no result depends on the order of the data.
Scores closer than the rounding of a float32 dot product (1e-6 of the vectors' norms) count as the same.

Dimensions: Q queries, G gallery items, E embedding, N samples, C classes.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from diptych.errors import InputError

Array = Tensor | np.ndarray
Positives = Sequence[Sequence[int]] | Array
"""For each query the gallery items that are right, one or more; as an array (Q,), exactly one each."""

_TIE = 1e-6


def ranks(queries: Array, gallery: Array, positives: Positives, *, tile: int = 128) -> np.ndarray:
    """The rank of the best right item of each query, 1 for the top: 1 + the wrong items that score as high or higher.

    queries (Q, E) and gallery (G, E) are compared by dot product, `tile` queries at a time: O(tile · G) memory. Returns
    (Q,) integers. Raises InputError where a query has no right item, or values are not finite.

    >>> ranks(np.eye(3), np.eye(3), np.array([0, 1, 0]))  # the third ties with the wrong 1, and loses to 2
    array([1, 1, 3])
    """
    found = [
        1 + (scores.masked_fill(right, -torch.inf) >= best[:, None]).sum(1)
        for scores, right, _, slack in _tiles(queries, gallery, positives, tile)
        for best in [scores.masked_fill(~right, -torch.inf).amax(1) - slack]
    ]
    return torch.cat(found).numpy()


def recall_at_k(
    queries: Array, gallery: Array, positives: Positives, ks: Sequence[int] = (1, 5, 10), *, tile: int = 128
) -> dict[int, float]:
    """The share of queries with a right item among their first k, for each k (see `ranks`).

    >>> recall_at_k(np.eye(3), np.eye(3), [[0], [1], [0, 2]], ks=(1,))
    {1: 1.0}
    """
    rank = ranks(queries, gallery, positives, tile=tile)
    return {k: float((rank <= k).mean()) for k in ks}


def median_rank(queries: Array, gallery: Array, positives: Positives, *, tile: int = 128) -> float:
    """The median over queries of the best right item's rank (see `ranks`)."""
    return float(np.median(ranks(queries, gallery, positives, tile=tile)))


def chance_recall(right: Sequence[int], gallery: int, k: int) -> float:
    """Recall at k of a random order: the mean over queries with `right[q]` right items among `gallery`.

        [C(gallery, k) - C(gallery - right, k)] / C(gallery, k)

    >>> chance_recall([1, 1], 4, 1), chance_recall([2], 4, 1)
    (0.25, 0.5)
    """
    k = min(k, gallery)
    values, counts = np.unique(np.asarray(right), return_counts=True)
    orders = math.comb(gallery, k)
    hit = [(orders - math.comb(gallery - int(value), k)) / orders for value in values]
    return float(np.average(hit, weights=counts))


def mean_average_precision(queries: Array, gallery: Array, positives: Positives, *, tile: int = 128) -> float:
    """The mean over queries of the average precision: the mean over right items of the precision at their rank.

    With right items in falling order of score, the i-th has precision i / (i + wrong items scoring as high or higher).
    """
    total, count = 0.0, 0
    for scores, right, owner, slack in _tiles(queries, gallery, positives, tile):
        wrong = scores.masked_fill(right, torch.inf).sort(1).values  # ascending; the right ones go last
        n_wrong = (~right).sum(1)
        n_right = torch.bincount(owner, minlength=len(scores))
        ordered = scores.masked_fill(~right, -torch.inf).topk(int(n_right.max()), 1).values  # (tile, most right items)
        above = n_wrong[:, None] - torch.searchsorted(wrong, (ordered - slack[:, None]).contiguous())
        place = torch.arange(1, ordered.shape[1] + 1, device=scores.device)
        precision = place / (place + above)
        precision = precision.masked_fill(place > n_right[:, None], 0).double()
        total += float((precision.sum(1) / n_right).sum())
        count += len(scores)
    return total / count


def accuracy(scores: Array, labels: Array, topk: Sequence[int] = (1, 5)) -> dict[int, float]:
    """The share of samples whose right class is among the k best: scores (N, C), labels (N,).

    >>> accuracy(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([1, 0]), topk=(1,))  # a tie is no hit
    {1: 0.5}
    """
    rank = class_ranks(scores, labels)
    return {k: float((rank <= k).mean()) for k in topk}


def class_ranks(scores: Array, labels: Array) -> np.ndarray:
    """The rank (N,) of each sample's right class among scores (N, C): 1 + the other classes as high or higher."""
    values = _finite("scores", scores)
    index = torch.as_tensor(labels).long().to(values.device)
    if values.shape[:1] != index.shape or (
        len(index) and not 0 <= int(index.min()) <= int(index.max()) < values.shape[1]
    ):
        raise InputError(
            f"labels {tuple(index.shape)} do not fit scores {tuple(values.shape)}; give one class a sample"
        )
    return (values >= values.gather(1, index[:, None])).sum(1).cpu().numpy()


def per_class(hits: Array, labels: Array, classes: int) -> np.ndarray:
    """The mean of `hits` (N,) over the samples of each class (C,); NaN for a class without samples.

    >>> per_class(np.array([1, 0, 1]), np.array([0, 0, 2]), 3)
    array([0.5, nan, 1. ])
    """
    index, values = np.asarray(labels), np.asarray(hits, dtype=np.float64)
    count = np.bincount(index, minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(index, weights=values, minlength=classes) / count


def _finite(name: str, array: Array) -> Tensor:
    values = torch.as_tensor(array)
    values = values if values.dtype == torch.float64 else values.float()
    if values.dim() != 2 or not len(values):
        raise InputError(f"{name} has shape {tuple(values.shape)}; two dimensions and at least one row are needed")
    # The extremes are finite where all are, and need no memory; NaN is both.
    if values.numel() and not torch.stack(values.aminmax()).isfinite().all():
        raise InputError(f"{name} holds values that are not finite; the model that made them is broken")
    return values


def _tiles(
    queries: Array, gallery: Array, positives: Positives, tile: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For `tile` queries at a time: scores (t, G), which are right (t, G) bool, whose each right pair is, and what
    counts as a tie (t,)."""
    q, g = _finite("queries", queries), _finite("gallery", gallery)
    if len(positives) != len(q) or q.shape[1] != g.shape[1]:
        raise InputError(
            f"{len(q)} queries of width {q.shape[1]}, {len(positives)} lists of positives and a gallery of width "
            f"{g.shape[1]} do not fit"
        )
    dtype = torch.promote_types(q.dtype, g.dtype)
    q, g = q.to(dtype), g.to(q.device, dtype)
    longest = g.norm(dim=1).max()
    for start in range(0, len(q), tile):
        rows = [np.unique(np.atleast_1d(np.asarray(items))) for items in positives[start : start + tile]]
        if not all(row.size for row in rows):
            at = start + next(i for i, row in enumerate(rows) if not row.size)
            raise InputError(f"query {at} has no right item in the gallery; leave it out")
        owner = torch.from_numpy(np.repeat(np.arange(len(rows)), [row.size for row in rows])).to(q.device)
        items = torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(q.device)
        part = q[start : start + tile]
        right = torch.zeros((len(part), len(g)), dtype=torch.bool, device=q.device)
        right[owner, items] = True
        yield part @ g.T, right, owner, _TIE * longest * part.norm(dim=1)
