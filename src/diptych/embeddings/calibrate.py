"""Choose how much of an index a search reads, so that it reaches a recall that is measured against
exact search.

Dimensions: Q queries, C numbers of candidates, E embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.embeddings.index import Index, mapped
from diptych.embeddings.ivf import Codes, compared, listed
from diptych.embeddings.layout import parts_of
from diptych.embeddings.searchable import Searchable
from diptych.embeddings.vectors import take
from diptych.errors import InputError

HELD_OUT = 1024
"""The number of queries of each kind that the recall is measured with."""

RECALL = 0.99
"""The share of the nearest that is found, unless another is asked for."""

NEAREST = 50
"""How many nearest that is of: the page of `diptych serve` shows 48 at once."""

MOST = 32
"""The most candidates, for each hit, that an index of codes compares anew."""

Search = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]
"""Takes queries, a number of hits and a number of lists; returns cosines and rows (Q, C), in the order
in which they would be compared anew."""

_AT_ONCE = 512  # queries of one exact search, whose products with a tile are in memory
_TIE = 1e-6  # cosines closer than the rounding of a float32 dot product are equal
# Codes compared in the time in which the vector of one candidate is read and compared: 16 are measured
# with the vectors in the system's cache, and far more where they come from the disk.
_READ = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Queries (Q, E), their own rows (Q,), which are no answers, if they are rows, and the smallest
    cosine (Q, 1) of a right answer."""

    queries: Tensor
    own: Tensor | None
    worst: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The lists to read, the candidates to compare anew (0: the lists hold vectors), and the recalls
    of each kind of query that they reach; whether those are enough."""

    nprobe: int
    candidates: int
    measured: dict[str, float]
    enough: bool


def calibrated(
    index: Any, codes: Codes, exact: Index, held_out: np.ndarray, recall: float, k: int
) -> Setting:
    """Return the setting that reaches the recall for every kind of query and reads least.

    Raises InputError if codes do not reach it.
    """
    words = words_of(exact, held_out) if exact.manifest.rows != "texts" else None
    kinds = questions(exact, held_out, words, k)
    if codes == "flat":
        found = cheapest(partial(listed, index), kinds, recall, k, k, index.nlist, len(exact))
        return replace(found, candidates=0)
    search = partial(compared, index, vectors=exact.rows)
    most = min(MOST * k, len(exact) - 1)
    found = cheapest(search, kinds, recall, k, most, index.nlist, len(exact))
    if not found.enough:
        reached = ", ".join(f"{value:.4f} for {kind}" for kind, value in found.measured.items())
        raise InputError(
            f"codes of {codes} reach a recall of {reached} in place of {recall:g} plus two standard errors "
            f"with {most} candidates; ask for less recall, give the number of lists, which fits codes anew, or keep "
            "vectors (compress=False)"
        )
    return found


def cheapest(
    search: Search,
    kinds: Mapping[str, Asked],
    recall: float,
    k: int,
    most: int,
    lists: int,
    rows: int,
) -> Setting:
    """Return, of the lists to read (1 to `lists`) and the candidates to compare (`k` to `most`) whose
    recall is enough, those that take least time; if none is, all.

    A recall is enough if its mean over the queries of each kind, less two standard errors, is the one
    that is asked for. One search with the most candidates measures all lower numbers of them.
    """

    @cache
    def curves(nprobe: int) -> dict[str, tuple[Tensor, Tensor]]:
        found = {}
        for name, asked in kinds.items():
            hit = _shares(search, asked, k, most, nprobe)
            mean = hit.mean(0)
            error = hit.std(0, correction=min(1, len(hit) - 1)) / len(hit) ** 0.5
            found[name] = (mean, mean - 2 * error)
        return found

    def fewest(nprobe: int) -> int | None:
        worst = torch.stack([low for _, low in curves(nprobe).values()]).amin(0)
        enough = (worst >= recall).nonzero()
        return k + int(enough[0]) if len(enough) else None

    def cost(nprobe: int, candidates: int) -> float:
        return nprobe * rows / lists + _READ * candidates

    # invariant: `low` is too few
    low = 0
    high = 1
    while high < lists and fewest(high) is None:
        low = high
        high = min(2 * high, lists)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fewest(middle) is not None else (middle, high)
    nprobe = high
    found = fewest(high)
    candidates = most if found is None else found
    # more lists may need fewer candidates
    while (high := max(high + 1, round(1.25 * high))) <= lists:
        if cost(high, k) >= cost(nprobe, candidates):
            break
        few = fewest(high)
        if few is not None and cost(high, few) < cost(nprobe, candidates):
            nprobe = high
            candidates = few
    measured = {name: float(mean[candidates - k]) for name, (mean, _) in curves(nprobe).items()}
    return Setting(
        nprobe=nprobe, candidates=candidates, measured=measured, enough=found is not None
    )


def _shares(search: Search, asked: Asked, k: int, most: int, nprobe: int) -> Tensor:
    """Return the share of its right answers that each query (Q, C) finds with `k` to `most`
    candidates."""
    scores, rows = search(asked.queries, most + (asked.own is not None), nprobe)
    right = scores >= asked.worst
    if asked.own is not None:
        other = rows != asked.own[:, None]
        order = other.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        right = (right & other).gather(1, order[:, :most])
    return right.cumsum(1)[:, k - 1 :].clamp(max=k) / k


def questions(
    exact: Searchable,
    held_out: np.ndarray,
    words: Tensor | None,
    k: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Asked]:
    """Return what is asked of an index, by kind of query.

    The queries are the rows `held_out` themselves, and if they are no texts the vectors of captions
    `words` (W, E), if there are any: texts are in another region than images, and need more lists.
    `progress` receives the queries answered and their number.
    """
    own = torch.from_numpy(held_out)
    rows = exact.manifest.rows
    kinds = {rows: (torch.from_numpy(exact.rows(held_out)), own)}
    kinds |= {} if words is None else {"texts": (words, None)}
    asked = {}
    done = 0
    total = sum(len(queries) for queries, _ in kinds.values())
    for name, (queries, own) in kinds.items():
        worst: list[Tensor] = []
        for at in range(0, len(queries), _AT_ONCE):
            some = queries[at : at + _AT_ONCE]
            itself = None if own is None else own[at : at + _AT_ONCE]
            found = exact.top(some, k + (own is not None))
            worst.append(_without(itself, *found, k))
            done += len(some)
            progress(done, total)
        asked[name] = Asked(queries=queries, own=own, worst=torch.cat(worst)[:, -1:] - _TIE)
    return asked


def _without(own: Tensor | None, scores: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the `k` best scores of rows other than a query's own."""
    if own is None:
        return scores[:, :k]
    scores = scores.masked_fill(rows == own[:, None], -torch.inf)
    return scores.sort(dim=1, descending=True).values[:, :k]


def words_of(exact: Index, rows: np.ndarray) -> Tensor | None:
    """Return the vectors (W, E) of the captions of rows (N,); None if a folder has none."""
    folders = dict.fromkeys(path.parent.parent for path in exact.metadata)
    dimension = exact.manifest.dimension
    texts = [mapped(path, dimension) for folder in folders for path in parts_of(folder, "text_emb")]
    if list(map(len, texts)) != list(map(len, exact.vectors)):
        return None
    words = take(texts, rows)
    words = words[np.abs(words).sum(1) > 0]  # a row without a caption has zeros
    return torch.from_numpy(words) if len(words) else None
