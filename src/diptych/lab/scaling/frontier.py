"""The frontier of training runs: those with the lowest error for their compute.

Dimensions: R runs, F of them on the frontier.
"""

import math
from typing import Literal, get_args

import numpy as np

from diptych.errors import InputError, unknown

Kind = Literal["bins", "all", "hull"]
UNIT = 1500.0
"""Compute, in GFLOPs, by which the paper counts its bins: they double from here to the largest
run."""


def frontier(
    compute: np.ndarray,
    error: np.ndarray,
    kind: Kind = "bins",
    *,
    edges: int | None = None,
    alpha: float = 0.0,
) -> np.ndarray:
    """Return the indices of the runs on the frontier, in the order of their compute.

    compute (R,), error (R,) -> (F,).

    - `bins`: the best run of each bin between `edges` geometric edges, by default
      ⌊log2(largest compute / 1500)⌋, if it is strictly better than those before it. Bins are
      half-open, so the largest run is compared apart.
    - `all`: each run that is strictly better than all with less compute
    - `hull`: those of `all` that are on the hull of the runs on logarithmic axes. With `alpha` 0 it
      is the convex hull, otherwise the alpha shape, which follows bends: the union of the Delaunay
      triangles whose circumcircle has a radius below 1 / alpha (Edelsbrunner et al., 1983; the
      paper's alpha is 0.1).

    Raises InputError if there are fewer than two edges, for an alpha below 0 or of another frontier,
    and if no run is on the alpha shape.

    >>> compute = np.array([1e6, 2e6, 5e6, 1e7, 3e7, 1e8, 4e8, 1e9])
    >>> error = np.array([0.95, 0.93, 0.94, 0.90, 0.91, 0.85, 0.80, 0.82])
    >>> print(compute[frontier(compute, error)])
    [1.e+06 2.e+06 1.e+07 1.e+08 4.e+08]
    """
    if kind not in get_args(Kind):
        raise unknown("frontier", kind, get_args(Kind))
    if alpha < 0 or (alpha and kind != "hull"):
        raise InputError(
            f"alpha {alpha:g} with the frontier {kind!r}: it is of 'hull', and not below 0"
        )
    if kind == "bins":
        return _improving(compute, error, _best_of_bins(compute, error, edges))
    if kind == "hull" and alpha:
        return _improving(compute, error, _on_alpha_shape(np.log(compute), np.log(error), alpha))
    found = _improving(compute, error, np.arange(len(compute)))
    return (
        found[_lower_hull(np.log(compute[found]), np.log(error[found]))]
        if kind == "hull"
        else found
    )


def _best_of_bins(compute: np.ndarray, error: np.ndarray, edges: int | None) -> np.ndarray:
    """The best run of each bin that has one, and the one with the largest compute."""
    high = compute.max()
    count = math.floor(math.log2(high / UNIT)) if edges is None else edges
    if count < 2:
        raise InputError(
            f"a frontier of bins needs at least 2 edges, and these runs, of at most {high:g} GFLOPs, give "
            f"{max(count, 0)}; set their number, or take the frontier 'all'"
        )
    bins = np.searchsorted(np.geomspace(compute.min(), high, count), compute, side="right")
    order = np.lexsort((compute, error, bins))  # of equal errors that with the least compute
    first = np.r_[True, bins[order][1:] != bins[order][:-1]]
    return np.union1d(order[first], np.flatnonzero(compute == high))


def _improving(compute: np.ndarray, error: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Those of the runs `among` that are strictly better than all before them."""
    order = among[np.lexsort((error[among], compute[among]))]
    sorted_errors = error[order]
    before = np.r_[np.inf, np.minimum.accumulate(sorted_errors)[:-1]]
    return order[sorted_errors < before]


def _lower_hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The positions of the corners of the lower convex hull, x ascending (monotone chain)."""
    kept: list[int] = []
    for i in range(len(x)):
        while len(kept) > 1:
            a, b = kept[-2:]
            turn = (x[b] - x[a]) * (y[i] - y[a]) - (y[b] - y[a]) * (x[i] - x[a])
            if turn > 0:
                break
            kept.pop()
        kept.append(i)
    return np.array(kept, dtype=np.intp)


def _on_alpha_shape(x: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    """The indices of the points on the boundary of the alpha shape: the corners of edges that one of
    its triangles has alone."""
    from scipy.spatial import Delaunay, QhullError

    points = np.stack([x, y], 1)
    try:
        triangles = Delaunay(points).simplices
    except (QhullError, ValueError):
        raise InputError(
            f"{len(x)} runs span no area, so they have no alpha shape; add runs, or take alpha 0"
        ) from None
    corners = points[triangles]
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=2)
    area = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1])) / 2
    kept = triangles[sides.prod(1) * alpha < 4 * area]  # radius = product of the sides / 4 area
    edges = np.sort(np.stack([kept, np.roll(kept, -1, axis=1)], 2).reshape(-1, 2), axis=1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    if not len(unique):
        raise InputError(f"no run is on the alpha shape of {alpha:g}; lower alpha")
    return np.unique(unique[count == 1])
