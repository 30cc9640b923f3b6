"""Losses of many views: the published figures, loops over pairs, gradients, tiles and invariances."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import det
from torch.nn import functional as F

from diptych.errors import InputError
from diptych.objectives import multiview as mv

SETTINGS = settings(max_examples=30, deadline=None)


def views(count, width=3, instances=4):
    return torch.stack([F.normalize(det(instances, width, k), dim=1) for k in range(count)])


LOSSES = {
    "infonce_code": lambda u, tau, **how: mv.mv_infonce(u, tau, **how),
    "infonce_paper": lambda u, tau, **how: mv.mv_infonce(u, tau, form="paper", **how),
    "dhel_code": lambda u, tau, **how: mv.mv_dhel(u, tau, **how),
    "dhel_paper": lambda u, tau, **how: mv.mv_dhel(u, tau, form="paper", **how),
    "pairwise": mv.pairwise,
    "average": mv.average,
    "poly_view": mv.poly_view,
}


@pytest.mark.parametrize(
    ("name", "two", "three"),
    [
        ("infonce_code", 1.9497288172, 1.5764971948),
        ("infonce_paper", 1.6301098116, 1.4040380798),
        ("dhel_code", 1.7575668746, 1.5674407349),
        ("dhel_paper", 1.0644196941, 0.8742935544),
        ("pairwise", 1.8813494258, 2.0836491434),
        ("average", 1.8813494258, 1.8725707665),
        ("poly_view", 1.8813494258, 2.5243132985),
    ],
)
def test_the_sheets_figures(name, two, three):
    assert LOSSES[name](views(2), 0.5).item() == pytest.approx(two, abs=1e-9)
    assert LOSSES[name](views(3), 0.5).item() == pytest.approx(three, abs=1e-9)


def test_the_sheets_figures_of_two_views():
    x, y = views(2)
    assert mv.kcl(x, y).item() == pytest.approx(1.8784516074, abs=1e-9)
    assert mv.dhel(x, y, 0.5).item() == pytest.approx(mv.mv_dhel(views(2), 0.5).item(), abs=1e-12)
    assert mv.nt_xent(x, y, 0.5).item() == pytest.approx(1.8813494258, abs=1e-9)
    one_sided = (
        mv.dhel(x, y, 0.5, both=False)
        + mv.dhel(y, x, 0.5, both=False)
        + ((x * y).sum(1) / 0.5).mean()
    )
    assert one_sided.item() == pytest.approx(mv.dhel(x, y, 0.5).item(), abs=1e-12)


def test_equal_embeddings_and_orthonormal_instances():
    equal = F.normalize(torch.ones(3, 4, 5, dtype=torch.float64), dim=-1)
    for tau in (0.1, 1.0):
        assert mv.mv_infonce(equal, tau).item() == pytest.approx(math.log(33 / 6), abs=1e-12)
    orthonormal = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    assert mv.mv_infonce(orthonormal, 0.5).item() == pytest.approx(0.3407529539, abs=1e-9)
    assert mv.mv_dhel(orthonormal, 0.5).item() == pytest.approx(
        -math.log(3) - 2 + 3 * math.log(2), abs=1e-12
    )


# ---- loops


def slow(name, u, tau):
    """The equations, one pair after the other."""
    count, instances, _ = u.shape

    def e(v, i, m, j):
        return torch.exp((u[v, i] * u[m, j]).sum() / tau)

    every = list(itertools.product(range(count), range(instances)))
    total = 0
    if name in ("pairwise", "average"):
        pairs = (
            [(u[a], u[b]) for a, b in itertools.combinations(range(count), 2)]
            if name == "pairwise"
            else [
                (u[v], torch.stack([u[m] for m in range(count) if m != v]).mean(0))
                for v in range(count)
            ]
        )
        for x, y in pairs:
            flat = torch.cat([x, y])
            for i in range(len(flat)):
                partner = (i + instances) % len(flat)
                terms = {
                    j: torch.exp((flat[i] * flat[j]).sum() / tau)
                    for j in range(len(flat))
                    if j != i
                }
                total = total - torch.log(terms[partner] / sum(terms.values())) / len(flat) / len(
                    pairs
                )
        return total
    if name == "poly_view":
        pairs = list(itertools.permutations(range(count), 2))
        for (a, b), i in itertools.product(pairs, range(instances)):
            negatives = sum(e(a, i, m, j) for m, j in every if j != i)
            total = (
                total
                - torch.log(e(a, i, b, i) / (e(a, i, b, i) + negatives)) / len(pairs) / instances
            )
        return total
    for i in range(instances):
        positives = sum(e(v, i, m, i) for v, m in itertools.permutations(range(count), 2))
        if name.startswith("dhel"):
            positives = positives / 2 if name == "dhel_code" else positives
            spread = [sum(e(v, i, v, j) for j in range(instances) if j != i) for v in range(count)]
            total = total + (-torch.log(positives) + sum(map(torch.log, spread))) / instances
        else:
            allowed = (
                (lambda v, i, m, j: (m, j) != (v, i))
                if name == "infonce_code"
                else lambda v, i, m, j: m != v
            )
            spread = sum(
                e(v, i, m, j) for v in range(count) for m, j in every if allowed(v, i, m, j)
            )
            total = total - torch.log(positives / spread) / instances
    return total


@pytest.mark.parametrize("name", LOSSES)
@SETTINGS
@given(
    st.integers(2, 4),
    st.integers(2, 5),
    st.integers(1, 9),
    st.sampled_from([0.1, 0.5, 2.0]),
    st.integers(0, 99),
)
def test_equal_to_loops_in_value_and_gradient_whatever_the_tile(
    name, count, instances, tile, tau, seed
):
    generator = torch.Generator().manual_seed(seed)
    u = F.normalize(
        torch.randn(count, instances, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    one, other = u.clone().requires_grad_(), u.clone().requires_grad_()
    found, expected = LOSSES[name](one, tau, tile=tile), slow(name, other, tau)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_kcl_equals_loops():
    x, y = views(2)
    k = [[torch.exp(-2 * (a - b).square().sum()) for b in x] for a in x]
    within = [
        sum(
            torch.exp(-2 * (v[i] - v[j]).square().sum())
            for i, j in itertools.combinations(range(4), 2)
        )
        / 6
        for v in (x, y)
    ]
    across = sum(torch.exp(-2 * (x[i] - y[i]).square().sum()) for i in range(4)) / 4
    assert len(k) == 4
    assert mv.kcl(x, y).item() == pytest.approx((16 * sum(within) - 2 * across).item(), abs=1e-12)


# ---- invariances


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_views_and_instances_and_a_common_turn_do_not_matter(name):
    u = views(3)
    rotation = torch.linalg.qr(det(3, 3, 5))[0]
    for other in (u[[2, 0, 1]], u[:, [3, 1, 0, 2]], u @ rotation):
        assert LOSSES[name](other, 0.5).item() == pytest.approx(
            LOSSES[name](u, 0.5).item(), abs=1e-12
        )


def test_turning_one_view_leaves_the_uniformity_of_mv_dhel_alone():
    u = views(3)
    turned = u.clone()
    turned[1] = u[1] @ torch.linalg.qr(det(3, 3, 5))[0]

    def uniform(loss, x):  # without its alignment
        return loss(x, 0.5) + mv._positives(x, 0.5).mean()

    torch.testing.assert_close(uniform(mv.mv_dhel, u), uniform(mv.mv_dhel, turned))
    assert (uniform(mv.mv_infonce, u) - uniform(mv.mv_infonce, turned)).abs() > 0.01
    assert (mv._positives(u, 0.5) - mv._positives(turned, 0.5)).abs().max() > 0.01


@pytest.mark.parametrize("name", LOSSES)
def test_small_temperatures_and_many_views_stay_finite(name):
    u = F.normalize(
        torch.randn(6, 32, 8, generator=torch.Generator().manual_seed(0)), dim=-1
    ).requires_grad_()
    loss = LOSSES[name](u, 0.005)
    loss.backward()
    assert loss.isfinite()
    assert u.grad.isfinite().all()


def test_what_cannot_be_contrasted_is_refused():
    for shape in ((1, 4, 3), (2, 1, 3), (4, 3)):
        with pytest.raises(InputError, match="cannot be contrasted"):
            mv.mv_dhel(torch.ones(shape), 0.5)
    with pytest.raises(InputError, match="choose 'code' or 'paper'"):
        mv.mv_infonce(views(2), 0.5, form="cod")


# ---- DCL and SupCon


@SETTINGS
@given(st.integers(2, 5), st.integers(1, 9), st.sampled_from([None, 0.5]), st.integers(0, 99))
def test_dcl_equals_loops(instances, tile, sigma, seed):
    generator = torch.Generator().manual_seed(seed)
    u = F.normalize(torch.randn(2, instances, 3, generator=generator, dtype=torch.float64), dim=-1)
    one, other = u.clone().requires_grad_(), u.clone().requires_grad_()
    cosines = [float((u[0, i] * u[1, i]).sum()) for i in range(instances)]
    total = 0
    for v in range(2):
        for i in range(instances):
            weight = 1.0
            if sigma is not None:
                mean = sum(math.exp(c / sigma) for c in cosines) / instances
                weight = 2 - math.exp(cosines[i] / sigma) / mean
            spread = sum(
                torch.exp((other[v, i] * other[m, j]).sum() / 0.3)
                for m in range(2)
                for j in range(instances)
                if j != i
            )
            total = total + torch.log(spread) - weight * (other[v, i] * other[1 - v, i]).sum() / 0.3
    expected = total / (2 * instances)
    found = mv.dcl(one[0], one[1], 0.3, sigma=sigma, tile=tile)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(one.grad, other.grad)


@SETTINGS
@given(
    st.integers(2, 3),
    st.lists(st.integers(-1, 2), min_size=2, max_size=5),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_supervised_equals_loops(count, labels, tile, seed):
    generator = torch.Generator().manual_seed(seed)
    u = F.normalize(
        torch.randn(count, len(labels), 3, generator=generator, dtype=torch.float64), dim=-1
    )
    every = list(itertools.product(range(count), range(len(labels))))
    total = 0.0
    for v, i in every:
        s = {(m, j): float((u[v, i] * u[m, j]).sum() / 0.3) for m, j in every if (m, j) != (v, i)}
        normaliser = math.log(sum(map(math.exp, s.values())))
        positive = [key for key in s if key[1] == i or (labels[key[1]] == labels[i] >= 0)]
        total += sum(normaliser - s[key] for key in positive) / len(positive) / len(every)
    found = mv.supervised(u, torch.tensor(labels), 0.3, tile=tile)
    assert found.item() == pytest.approx(total)


def test_labels_that_are_all_different_make_supcon_nt_xent():
    u = views(2)
    assert mv.supervised(u, torch.arange(4), 0.5).item() == pytest.approx(
        mv.nt_xent(u[0], u[1], 0.5).item()
    )
    with pytest.raises(InputError, match="one for each of the 4"):
        mv.supervised(u, torch.arange(3), 0.5)
