"""Metrics of retrieval, classification, agreement and spread as functions of arrays.

Ties always count against the model: if a right and a wrong answer have the same score, the wrong
one ranks first. So a model that maps everything to one point gets 0, and no result depends on the
order of the data. Scores that differ by less than the rounding of a float32 dot product (1e-6 of
the vectors' norms) count as equal.

scipy and scikit-learn are used where they provide a metric. They are in the extra `lab` and are
imported when first needed.

Dimensions: Q queries, G gallery items, E embedding, N samples, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diptych.errors import InputError

Array = Tensor | np.ndarray
Positives = Sequence[Sequence[int]] | Array
"""For each query its right gallery items, at least one; as an array (Q,), exactly one per query."""

TIE = 1e-6
"""Scores of unit vectors that differ by less than this are equal."""


@contextmanager
def lab(what: str) -> Iterator[None]:
    """Context for imports of scipy and scikit-learn: a missing package raises InputError with the
    remedy.

    >>> with lab("this example"):
    ...     import nothing_of_the_kind
    Traceback (most recent call last):
    diptych.errors.InputError: this example needs nothing_of_the_kind; install it with: pip install 'diptych[lab]'
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or "scikit-learn").partition(".")[0].replace("sklearn", "scikit-learn")
        raise InputError(
            f"{what} needs {name}; install it with: pip install 'diptych[lab]'"
        ) from None


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
    q = _finite("queries", queries)
    g = _finite("gallery", gallery)
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


def accuracy(scores: Array, labels: Array, topk: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Top-k accuracy for each k, of scores (N, C) and labels (N,).

    >>> accuracy(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([1, 0]), topk=(1,))  # a tie is no hit
    {1: 0.5}
    """
    rank = class_ranks(scores, labels)
    return {k: float((rank <= k).mean()) for k in topk}


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs of a positive and another sample (N,) in which the positive one has the
    higher score; equal scores are half a pair. NaN if all samples are of one kind.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    values, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place, minlength=len(values))
    below = np.cumsum(counts) - counts
    rank = (below + (counts + 1) / 2)[place]
    hits = int(positive.sum())
    others = len(positive) - hits
    if not hits or not others:
        return math.nan
    return float((rank[positive].sum() - hits * (hits + 1) / 2) / (hits * others))


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """The average precision (K,) of K rankings of N items by scores (N, K), given which items are
    relevant (N, K) bool; NaN of a ranking without a relevant item.

        AP = Σ_t (R_t - R_t-1) P_t

    t are the different scores from the highest, P_t and R_t precision and recall among the items whose
    score is at least t. Items of equal score are one group, so that the order of the items does not
    matter: equal scores of all give the share of relevant items. This is scikit-learn's
    `average_precision_score`.

    >>> average_precision(np.array([[3.0], [2.0], [2.0], [1.0]]), np.array([[0], [1], [0], [1]], bool))
    array([0.41666667])
    """
    found = np.full(scores.shape[1], np.nan)
    for column, (values, right) in enumerate(zip(scores.T, relevant.T, strict=True)):
        total = int(right.sum())
        if not total:
            continue
        order = np.argsort(-values, kind="stable")
        last = np.append(np.diff(values[order]) != 0, True)  # of each group
        hits = np.cumsum(right[order])[last]
        precision = hits / (np.flatnonzero(last) + 1)
        found[column] = float(np.sum(np.diff(hits, prepend=0) * precision)) / total
    return found


def class_ranks(scores: Array, labels: Array) -> np.ndarray:
    """The rank (N,) of each sample's right class among scores (N, C).

    It is 1 + the number of other classes with the same or a higher score.

    Scores that differ by less than `TIE` times the largest absolute value of their row count as
    equal.

    >>> class_ranks(np.array([[0.3, 0.3 + 1e-8], [0.9, 0.1]]), np.array([1, 0]))
    array([2, 1])
    """
    values = _finite("scores", scores)
    index = torch.as_tensor(labels).long().to(values.device)
    if values.shape[:1] != index.shape or (
        len(index) and not 0 <= int(index.min()) <= int(index.max()) < values.shape[1]
    ):
        raise InputError(
            f"labels {tuple(index.shape)} do not fit scores {tuple(values.shape)}; give one class a sample"
        )
    slack = TIE * values.abs().amax(1, keepdim=True)
    return (values >= values.gather(1, index[:, None]) - slack).sum(1).cpu().numpy()


def per_class(hits: Array, labels: Array, classes: int) -> np.ndarray:
    """The mean of `hits` (N,) over the samples of each class (C,); NaN for a class without samples.

    >>> per_class(np.array([1, 0, 1]), np.array([0, 0, 2]), 3)
    array([0.5, nan, 1. ])
    """
    index = np.asarray(labels)
    values = np.asarray(hits, dtype=np.float64)
    count = np.bincount(index, minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(index, weights=values, minlength=classes) / count


def harmonic_mean(a: float, b: float) -> float:
    """The harmonic mean 2ab / (a + b), or 0 if both are 0.

    >>> harmonic_mean(1.0, 0.5), harmonic_mean(0.0, 0.0)
    (0.6666666666666666, 0.0)
    """
    return 2 * a * b / (a + b) if a + b else 0.0


def correlation(
    x: Array, y: Array, kind: Literal["pearson", "spearman"] = "pearson", level: float = 0.95
) -> tuple[float, float, float]:
    """The correlation r of two lists (N,), and the ends of its confidence interval by Fisher's
    transformation.

        tanh(atanh r ± z · s),        s² = 1 / (n - 3) for Pearson's r,   (1 + r²/2) / (n - 3) for Spearman's

    Ties share their mean rank. For a constant list r is 0. The interval is NaN for fewer than four
    pairs. Raises InputError for lists that differ in length, have fewer than two numbers, or have
    values that are not finite. Sources: Fisher 1921; Bonett and Wright 2000 (Spearman's s).

    >>> r, low, high = correlation(np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 2, 3, 5, 4]), "spearman")
    >>> round(r, 2), low < r < high
    (0.9, True)
    """
    a, b = (np.asarray(values, np.float64) for values in (x, y))
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2 or not np.isfinite([a, b]).all():
        raise InputError(
            f"{a.shape} and {b.shape} numbers do not correlate; give two finite lists of one length"
        )
    with lab("a correlation"):
        from scipy import stats
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        r = 0.0
    else:
        measure = stats.pearsonr if kind == "pearson" else stats.spearmanr
        r = float(measure(a, b).statistic)  # pyright: ignore  (scipy's stubs know no statistic)
    if len(a) < 4:
        return r, math.nan, math.nan
    spread = math.sqrt((1.0 if kind == "pearson" else 1 + r**2 / 2) / (len(a) - 3))
    z = float(stats.norm.ppf((1 + level) / 2)) * spread
    middle = math.atanh(max(-1 + 1e-15, min(r, 1 - 1e-15)))
    return r, math.tanh(middle - z), math.tanh(middle + z)


def effective_rank(x: Array) -> float:
    """The effective rank of x (N, E): the exponential of the entropy of its singular values.

        exp( - sum_i p_i log p_i ),        p_i = s_i / sum_j s_j

    Between 1 (a line) and min(N, E). Not centred. Source: Roy and Vetterli 2007.

    >>> round(effective_rank(np.eye(5)), 4), round(effective_rank(np.ones((5, 3))), 4)
    (5.0, 1.0)
    """
    values = torch.linalg.svdvals(_finite("vectors", x).double())
    total = values.sum()
    if total == 0:
        return 0.0
    share = values / total
    return float(torch.special.entr(share).sum().exp())


def covariance_rank(x: Array) -> int:
    """The rank of the covariance of the rows of x (N, E), at most min(N - 1, E).

    An eigenvalue counts if it exceeds the largest one times E times float32's epsilon, since
    embeddings are float32.

    >>> covariance_rank(np.eye(5)), covariance_rank(np.ones((5, 3)))
    (4, 0)
    """
    values = _finite("vectors", x).double()
    if len(values) < 2:
        return 0
    spectrum = torch.linalg.eigvalsh(torch.cov(values.T).reshape(values.shape[1], -1))
    return int(
        (
            spectrum
            > values.shape[1] * torch.finfo(torch.float32).eps * spectrum.max().clamp(min=1e-12)
        ).sum()
    )


def wasserstein_uniformity(x: Array) -> float:
    """The Wasserstein distance of unit vectors x (N, E) from a uniform spread; lower is more
    uniform.

        W = sqrt( |μ|² + 1 + tr Σ - 2/sqrt(E) · tr Σ^½ )

    This is the 2-Wasserstein distance of N(μ, Σ), with the mean and covariance of x, from N(0,
    I/E). It is between 0 and 2; points in a subspace are far from 0. Source: Fang et al. 2024.

    >>> round(wasserstein_uniformity(np.concatenate([np.eye(3), -np.eye(3)])), 6)
    0.0
    """
    values = _finite("vectors", x).double()
    mean = values.mean(0)
    centred = values - mean
    spectrum = torch.linalg.svdvals(centred).square() / len(values)
    square = (
        mean.square().sum()
        + 1
        + spectrum.sum()
        - 2 / math.sqrt(values.shape[1]) * spectrum.sqrt().sum()
    )
    return float(square.clamp(min=0).sqrt())


def isotropy(x: Array) -> float:
    """The isotropy of x (N, E): the least over the greatest partition function along the principal
    axes.

        min_c Z(c) / max_c Z(c),      Z(c) = sum_i exp<c, x_i>,      c: ± the eigenvectors of xᵀx

    It is 1 if all directions are alike, and at least e^-2 on unit vectors. Source: Mu and Viswanath
    2018. Both signs of an axis are used here, so that the value does not depend on the sign chosen
    by the solver.

    >>> round(isotropy(np.concatenate([np.eye(3), -np.eye(3)])), 4)
    1.0
    """
    values = _finite("vectors", x).double()
    axes = torch.linalg.eigh(values.T @ values).eigenvectors
    along = values @ axes
    partition = torch.cat([along, -along], 1).logsumexp(0)
    return float((partition.min() - partition.max()).exp())


def spread(x: Array) -> float:
    """The spread of unit vectors x (N, E): 0 if all are equal, 1 if their mean is 0.

        sqrt( sum_j var_j ) = sqrt( mean_i |x_i - mean x|² )

    It is SimSiam's standard deviation of the coordinates (Chen and He 2021, figure 2), but over all
    coordinates together, and so independent of the axes.

    >>> spread(np.ones((4, 3))), spread(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
    (0.0, 1.0)
    """
    values = _finite("vectors", x).double()
    return float(values.var(0, correction=0).sum().sqrt())


def _finite(name: str, array: Array, dimensions: tuple[int, ...] = (2,)) -> Tensor:
    values = torch.as_tensor(array)
    values = values if values.dtype == torch.float64 else values.float()
    if values.dim() not in dimensions or not len(values):
        wanted = " or ".join(("two", "three")[each - 2] for each in dimensions)
        raise InputError(
            f"{name} has shape {tuple(values.shape)}; {wanted} dimensions and at least one row are needed"
        )
    # All values are finite if the extremes are, which need no memory; any NaN is both.
    if values.numel() and not torch.stack(values.aminmax()).isfinite().all():
        raise InputError(
            f"{name} holds values that are not finite; the model that made them is broken"
        )
    return values


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
    q = _finite("queries", queries, (2, 3))
    g = _finite("gallery", gallery, (2, 3))
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


def best_threshold(scores: np.ndarray, visual: np.ndarray) -> float:
    """The threshold of scores (N,) above which a text is classified as visual with the best macro
    F1.

        F1 = mean of 2 TP / (2 TP + FP + FN) over the two classes

    `visual` (N,) is the ground truth. The threshold is midway between two scores; of several
    equally good ones it is the middle one. Raises InputError if all texts are of one class.

    >>> best_threshold(np.array([0.25, 0.5, 0.75, 1.0]), np.array([0, 0, 1, 1]))
    0.625
    """
    visual = np.asarray(visual, bool)
    if visual.all() or not visual.any():
        raise InputError(
            f"{int(visual.sum())} of the {len(visual)} texts to find a threshold by are visual; some must "
            "be, and some not: give texts of both kinds, with a label that says which"
        )
    values, number = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    ours = np.bincount(number, visual).cumsum()[
        :-1
    ]  # visual texts at or below each score but the last
    others = np.bincount(number, ~visual).cumsum()[:-1]
    if not len(ours):
        raise InputError(
            f"all {len(visual)} texts to find a threshold by have the score {values[0]:g}; the model that "
            "made them is broken"
        )
    positives = visual.sum()
    negatives = (~visual).sum()
    of_visual = 2 * (positives - ours) / (2 * positives - ours + negatives - others)
    of_others = 2 * others / (negatives + others + ours)
    total = of_visual + of_others
    best = np.flatnonzero(total >= total.max() - 1e-12)
    at = best[len(best) // 2]
    return float((values[at] + values[at + 1]) / 2)
