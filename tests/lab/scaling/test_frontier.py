"""The best runs for their compute."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.lab.scaling.frontier import frontier

COMPUTE = np.array([1e6, 2e6, 5e6, 1e7, 3e7, 1e8, 4e8, 1e9])
ERROR = np.array([0.95, 0.93, 0.94, 0.90, 0.91, 0.85, 0.80, 0.82])
runs = st.lists(st.tuples(st.integers(3_000, 10**9), st.integers(1, 50)), min_size=2, max_size=40)


def slow_bins(compute, error, edges):
    """The published rule, run by run."""
    low, high = min(compute), max(compute)
    at = [low * (high / low) ** (i / (edges - 1)) for i in range(edges)]
    at[-1] = high
    best = []
    for left, right in pairwise(at):
        inside = [(y, c) for c, y in zip(compute, error, strict=True) if left <= c < right]
        if inside and (not best or min(inside)[0] < best[-1][0]):
            best.append(min(inside))
    last = min((y, c) for c, y in zip(compute, error, strict=True) if c == high)
    if not best or last[0] < best[-1][0]:
        best.append(last)
    return [(c, y) for y, c in best]


def test_the_published_example():
    on = frontier(COMPUTE, ERROR)  # floor(log2(1e9 / 1500)) = 19 edges
    assert list(zip(COMPUTE[on], ERROR[on], strict=True)) == [
        (1e6, 0.95),
        (2e6, 0.93),
        (1e7, 0.90),
        (1e8, 0.85),
        (4e8, 0.80),
    ]


@example([(3001, 1), (3002, 1), (3000, 1)], 2)  # equal errors in a bin
@given(runs, st.integers(2, 12))
def test_bins_are_those_of_the_rule(found, edges):
    compute, error = (np.array(values, float) for values in zip(*found, strict=True))
    near = np.geomspace(compute.min(), compute.max(), edges)[1:-1]
    if (np.abs(near[:, None] / compute - 1) < 1e-9).any():  # an edge on a run: rounding decides
        return
    on = frontier(compute, error, "bins", edges=edges)
    assert list(zip(compute[on], error[on], strict=True)) == slow_bins(compute, error, edges)


@given(runs)
def test_all_keeps_what_no_cheaper_run_reaches(found):
    compute, error = (np.array(values, float) for values in zip(*found, strict=True))
    on = frontier(compute, error, "all")
    kept = set(zip(compute[on], error[on], strict=True))
    for c, y in zip(compute, error, strict=True):
        reached = any(y2 <= y and (c2, y2) != (c, y) for c2, y2 in kept if c2 <= c)
        assert ((c, y) in kept) != reached
    assert len(kept) == len(on)


@given(runs)
def test_the_hull_lies_below_all_runs(found):
    compute, error = (np.array(values, float) for values in zip(*found, strict=True))
    on, every = frontier(compute, error, "hull"), frontier(compute, error, "all")
    assert set(on) <= set(every)
    x, y = np.log(compute), np.log(error)
    assert (np.interp(x[every], x[on], y[on]) <= y[every] + 1e-9).all()


def slow_alpha(compute, error, alpha):
    """Triangle by triangle: those with an empty circumcircle that is small, their lone edges."""
    points = np.log(np.stack([compute, error], 1))
    edges = []
    for three in combinations(range(len(points)), 3):
        a, b, c = points[list(three)]
        centre = np.linalg.solve(2 * np.stack([b - a, c - a]), [b @ b - a @ a, c @ c - a @ a])
        radius = np.linalg.norm(a - centre)
        others = np.delete(points, three, axis=0)
        if radius < 1 / alpha and (np.linalg.norm(others - centre, axis=1) > radius).all():
            edges += combinations(three, 2)
    on = {at for edge in edges if edges.count(edge) == 1 for at in edge}
    return sorted(
        at
        for at in on
        if not any(compute[i] <= compute[at] and error[i] < error[at] for i in on if i != at)
    )


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_alpha_shape_is_that_of_its_triangles(alpha, seed):
    draw = np.random.default_rng(seed)
    compute = np.exp(draw.uniform(0, 8, 14))
    error = np.exp(draw.uniform(-3, 0, 14))
    on = frontier(compute, error, "hull", alpha=alpha)
    assert sorted(on.tolist()) == slow_alpha(compute, error, alpha)


def bent():
    """Runs whose lower edge curves away from its chord, on logarithmic axes."""
    compute = np.geomspace(1e6, 1e10, 12)
    edge = 0.9 * np.exp(-0.02 * np.log(compute / 1e6) ** 1.6)
    rows = [(c, e * up) for c, e in zip(compute, edge, strict=True) for up in (1, 1.05, 1.1)]
    return np.array(rows).T


def test_the_alpha_shape_follows_a_bend_where_the_convex_hull_has_the_ends_alone():
    compute, error = bent()
    edge = np.arange(0, len(compute), 3)
    assert frontier(compute, error, "hull").tolist() == [0, edge[-1]]
    assert frontier(compute, error, "hull", alpha=0.1).tolist() == edge.tolist()


def test_an_alpha_near_0_gives_the_convex_hull():
    draw = np.random.default_rng(5)
    compute = np.exp(draw.uniform(10, 20, 60))
    error = np.exp(draw.uniform(-3, 0, 60))
    convex = frontier(compute, error, "hull")
    assert frontier(compute, error, "hull", alpha=1e-9).tolist() == convex.tolist()


def test_the_largest_run_is_compared_apart():
    compute = np.array([1e4, 1e5, 1e6])
    on = frontier(compute, np.array([0.9, 0.8, 0.7]), "bins", edges=2)
    assert compute[on].tolist() == [1e5, 1e6]


@pytest.mark.parametrize(
    ("kind", "options"), [("bins", {}), ("all", {}), ("hull", {}), ("hull", {"alpha": 0.02})]
)
def test_neither_order_nor_repetition_of_the_runs_matters(kind, options):
    order = np.random.default_rng(0).integers(0, len(COMPUTE), 60)
    assert set(order) == set(range(len(COMPUTE)))
    mixed = frontier(COMPUTE[order], ERROR[order], kind, **options)
    once = frontier(COMPUTE, ERROR, kind, **options)
    assert COMPUTE[order][mixed].tolist() == COMPUTE[once].tolist()


def test_bad_input():
    with pytest.raises(InputError, match="at most 2000 GFLOPs, give 0; set their number"):
        frontier(np.array([1e3, 2e3]), np.array([0.9, 0.8]))
    with pytest.raises(InputError, match="unknown frontier 'binz'; did you mean 'bins'"):
        frontier(COMPUTE, ERROR, "binz")
    with pytest.raises(InputError, match="alpha 0.1 with the frontier 'all'"):
        frontier(COMPUTE, ERROR, "all", alpha=0.1)
    with pytest.raises(InputError, match="alpha -1 with the frontier 'hull'"):
        frontier(COMPUTE, ERROR, "hull", alpha=-1)
    with pytest.raises(InputError, match="no run is on the alpha shape of 1000; lower alpha"):
        frontier(COMPUTE, ERROR, "hull", alpha=1000)
    with pytest.raises(InputError, match="2 runs span no area"):
        frontier(COMPUTE[:2], ERROR[:2], "hull", alpha=0.1)
