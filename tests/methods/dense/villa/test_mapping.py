"""The mapping of ViLLA: its loss with and without the published offset, the best region alone gets a
gradient, heads of the attributes in use, and the rule by which regions are chosen."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.methods.dense.villa.mapping import Mapper, assigned, column_nce, image_scores

S = torch.tensor([[2.0, 0.0], [1.0, 3.0], [-1.0, 0.5]], dtype=torch.float64)
Y = torch.tensor([[1, 0], [0, 1], [0, 1]]).bool()


def slow(scores, positive, offset=False):
    """The loss pair by pair."""
    B, C = scores.shape
    total = 0.0
    count = 0
    for i in range(B):
        for a in range(C):
            if not positive[i][a]:
                continue
            own = math.exp(scores[i][a])
            others = sum(math.exp(scores[k][a]) for k in range(B) if not positive[k][a])
            if offset:
                others += sum(1 for k in range(B) if positive[k][a])
            total -= math.log(own / (own + others))
            count += 1
    return total / max(count, 1)


def drawn(seed, B=5, R=4, C=3):
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(B, R, C, generator=generator, dtype=torch.float64) * 2 - 1
    there = torch.rand(B, R, generator=generator) < 0.6
    there[:, 0] = True
    return cosines, there, torch.rand(B, C, generator=generator) < 0.4


def test_the_worked_example():
    assert float(column_nce(S, Y)) == pytest.approx(0.290559, abs=1e-6)
    assert float(column_nce(S, Y, legacy_offset=True)) == pytest.approx(0.538663, abs=1e-6)


def test_an_attribute_of_all_images_teaches_nothing_unless_by_the_published_code():
    scores = torch.tensor([[2.0], [1.0]], dtype=torch.float64, requires_grad=True)
    everywhere = torch.ones(2, 1).bool()
    clean = column_nce(scores, everywhere)
    clean.backward()
    assert float(clean.detach()) == 0
    assert not scores.grad.any()
    offset = column_nce(scores.detach(), everywhere, legacy_offset=True)
    assert float(offset) == pytest.approx(0.395495, abs=1e-6)
    by_hand = (math.log(1 + 2 / math.exp(2)) + math.log(1 + 2 / math.exp(1))) / 2
    assert float(offset) == pytest.approx(by_hand)


@pytest.mark.parametrize("offset", [False, True])
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_the_loss_is_that_of_a_slow_one(offset, seed):
    cosines, there, positive = drawn(seed)
    scores = image_scores(cosines, there, 0.3)
    found = column_nce(scores, positive, legacy_offset=offset)
    assert float(found) == pytest.approx(slow(scores, positive, offset))


@pytest.mark.parametrize("offset", [False, True])
def test_the_gradient_is_that_of_finite_differences(offset):
    scores = S.clone().requires_grad_()
    positive = torch.tensor([[1, 1], [0, 1], [0, 1]]).bool()  # the second column has no negative
    assert torch.autograd.gradcheck(
        lambda x: column_nce(x, positive, legacy_offset=offset), (scores,)
    )


def test_large_scores_do_not_overflow():
    assert float(column_nce(1e4 * S.float(), Y)) == 0
    assert math.isfinite(float(column_nce(-1e4 * S.float(), Y)))


def test_only_the_best_region_of_an_image_gets_a_gradient():
    cosines, there, positive = drawn(3)
    cosines.requires_grad_()
    column_nce(image_scores(cosines, there, 0.07), positive).backward()
    best = cosines.detach().masked_fill(~there[..., None], -2).argmax(1)
    for image in range(len(cosines)):
        for column in range(cosines.shape[2]):
            reached = cosines.grad[image, :, column].nonzero()[:, 0].tolist()
            assert reached in ([], [int(best[image, column])])
    assert cosines.grad.any()


def test_scores_do_not_depend_on_duplicates_and_order():
    cosines, there, positive = drawn(4)
    scores = image_scores(cosines, there, 0.07)
    twice = image_scores(torch.cat([cosines, cosines], 1), torch.cat([there, there], 1), 0.07)
    assert torch.equal(scores, twice)
    columns = torch.tensor([2, 0, 1])
    rows = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(
        column_nce(scores[rows][:, columns], positive[rows][:, columns]),
        column_nce(scores, positive),
    )


def mapper(heads, **options):
    torch.manual_seed(0)
    return Mapper(heads, 6, **options).double()


@pytest.mark.parametrize(("heads", "residual"), [(4, 0.0), (4, 0.8), (1, 0.0)])
def test_each_attribute_has_its_head(heads, residual):
    made = mapper(heads, residual=residual)
    regions = torch.randn(2, 3, 6, dtype=torch.float64)
    vectors = torch.nn.functional.normalize(torch.randn(4, 6, dtype=torch.float64), dim=-1)
    chosen = torch.tensor([3, 1])
    found = made(regions, vectors, chosen)
    assert found.shape == (2, 3, 2)
    for image in range(2):
        for region in range(3):
            for column, at in enumerate(chosen.tolist()):
                r = regions[image, region]
                p = (1 - residual) * made.heads[at if heads > 1 else 0](r) + residual * r
                expected = (p / p.norm()) @ vectors[at]
                torch.testing.assert_close(found[image, region, column], expected)


def test_heads_that_are_not_used_get_no_gradient():
    made = mapper(4)
    vectors = torch.eye(6, dtype=torch.float64)[:4]
    made(torch.randn(2, 3, 6, dtype=torch.float64), vectors, torch.tensor([2])).sum().backward()
    reached = [any(p.grad is not None for p in head.parameters()) for head in made.heads]
    assert reached == [False, False, True, False]


def test_regions_near_the_best_one_are_chosen():
    cosines = torch.tensor([[[0.52], [0.41], [0.30]]])
    there = torch.ones(1, 3).bool()
    present = torch.ones(1, 1).bool()
    assert assigned(cosines, there, present, 0.2)[0, :, 0].tolist() == [True, True, False]
    assert not assigned(cosines, there, present, 0.0).any(), "the best is not above itself"
    assert not assigned(cosines, there, ~present, 0.2).any(), "not in the text"
    assert assigned(cosines, there, present, 2.0).all()
    hidden = torch.tensor([[False, True, True]])
    assert assigned(cosines, hidden, present, 0.1)[0, :, 0].tolist() == [False, True, False]


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_the_rule_is_that_of_a_slow_one(seed):
    cosines, there, present = drawn(seed)
    found = assigned(cosines, there, present, 0.2)
    for i, (rows, real) in enumerate(zip(cosines.tolist(), there.tolist(), strict=True)):
        for a in range(cosines.shape[2]):
            best = max(row[a] for row, own in zip(rows, real, strict=True) if own)
            expected = [
                own and bool(present[i, a]) and row[a] > best - 0.2
                for row, own in zip(rows, real, strict=True)
            ]
            assert found[i, :, a].tolist() == expected
