"""Objectives of composed retrieval against the published figures and loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from diptych.errors import InputError
from diptych.methods.adapt.sprc.objectives import (
    best_similarity,
    hard_negatives,
    prompt_alignment,
    token_nce,
)
from diptych.objectives import pair_losses


def drawn(seed, *shape):
    return normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
        dim=-1,
    )


def toy():
    half = math.sqrt(0.5)
    return torch.eye(2), torch.tensor([[[1.0, 0.0], [half, half]], [[0.0, 1.0], [-1.0, 0.0]]])


@pytest.mark.parametrize(("tau", "figure"), [(1.0, 0.435324), (0.07, 0.007560)])
def test_the_sheets_figures(tau, figure):
    assert token_nce(*toy(), 1 / tau).item() == pytest.approx(figure, abs=5e-7)


def slow(queries, targets, scale):
    """(query to target, target to query), term by term."""
    scores = [[max(scale * float(q @ g) for g in target) for target in targets] for q in queries]
    found = []
    for table in (scores, list(zip(*scores, strict=True))):
        rows = [
            math.log(sum(math.exp(each) for each in row)) - row[i]
            for i, row in enumerate(table[: len(queries)])
        ]
        found.append(sum(rows) / len(rows))
    return found


@pytest.mark.parametrize(("count", "vectors"), [(1, 3), (4, 1), (5, 4)])
def test_equals_the_loop_over_queries_targets_and_vectors(count, vectors):
    queries, targets = drawn(0, count, 6), drawn(1, count, vectors, 6)
    one, other = slow(queries, targets, 7.0)
    assert token_nce(queries, targets, 7.0).item() == pytest.approx(one, abs=1e-12)
    both = token_nce(queries, targets, 7.0, directions="mean").item()
    assert both == pytest.approx((one + other) / 2, abs=1e-12)
    more = torch.cat([targets, drawn(2, 3, vectors, 6)])
    assert token_nce(queries, more, 7.0).item() == pytest.approx(
        slow(queries, more, 7.0)[0], abs=1e-12
    )


def test_the_order_of_a_targets_vectors_is_nothing_and_one_vector_is_info_nce():
    queries, targets = drawn(0, 5, 6), drawn(1, 5, 4, 6)
    turned = targets[:, torch.tensor([3, 1, 0, 2])]
    assert token_nce(queries, turned, 9.0).item() == pytest.approx(
        token_nce(queries, targets, 9.0).item(), abs=1e-12
    )
    alone = targets[:, :1]
    rows = pair_losses(queries, alone[:, 0], 9.0).mean()
    assert token_nce(queries, alone, 9.0).item() == pytest.approx(rows.item(), abs=1e-12)
    cosines = torch.stack([cosine_similarity(queries[[i]], alone[:, 0]) for i in range(5)])
    assert token_nce(queries, alone, 9.0).item() == pytest.approx(
        cross_entropy(9 * cosines, torch.arange(5)).item(), abs=1e-12
    )


def test_one_triple_has_no_wrong_target():
    assert token_nce(drawn(0, 1, 6), drawn(1, 1, 4, 6), 14.0).item() == 0


def test_gradients_reach_queries_targets_and_scale():
    queries, targets = drawn(0, 3, 4).requires_grad_(), drawn(1, 3, 2, 4).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    for directions in ("query", "mean"):
        assert torch.autograd.gradcheck(
            lambda *x, how=directions: token_nce(*x, directions=how), (queries, targets, scale)
        )


def test_means_over_vectors_come_first():
    prompt, wanted = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert prompt_alignment(prompt.mean(0, keepdim=True), wanted).item() == 4.25
    assert (prompt - wanted).square().mean().item() == 4.5  # which is not meant


def test_alignment_teaches_the_prompts_alone():
    prompts = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    prompt_alignment(prompts, wanted).backward()
    assert wanted.grad is None
    torch.testing.assert_close(prompts.grad, 2 * (prompts - wanted.mean(0)).detach() / 15)
    assert torch.autograd.gradcheck(lambda p: prompt_alignment(p, wanted), prompts)


@pytest.mark.parametrize(
    ("queries", "targets"),
    [((3, 4), (2, 5, 4)), ((3, 4), (3, 5, 6)), ((3, 4), (3, 4)), ((3, 1, 4), (3, 5, 4))],
)
def test_shapes_that_do_not_fit_are_refused(queries, targets):
    with pytest.raises(InputError, match="a target for each query"):
        token_nce(torch.zeros(queries), torch.zeros(targets), 1.0)
    with pytest.raises(InputError, match="choose 'query' or 'mean'"):
        token_nce(*toy(), 1.0, directions="both")


def test_the_best_vector_of_a_target_counts():
    queries, targets = drawn(0, 5, 8), drawn(1, 7, 3, 8)
    found = best_similarity(queries, targets)
    assert found.shape == (5, 7)
    assert found[2, 4].item() == pytest.approx(
        max((queries[2] @ targets[4, k]).item() for k in range(3))
    )


def test_negatives_are_drawn_by_the_softmax_of_the_others():
    logits = torch.tensor([[9.0, 1.0, 0.0, 0.5]] + [[0.0, 0.0, 0.0, 0.0]] * 3)
    rng = np.random.default_rng(0)
    draws = torch.stack([hard_negatives(logits, rng) for _ in range(4000)])
    assert (draws != torch.arange(4)).all()
    shares = torch.bincount(draws[:, 0], minlength=4) / len(draws)
    expected = logits[0, 1:].softmax(0)
    assert (shares[1:] - expected).abs().max() < 0.03  # four standard errors
    again = hard_negatives(logits, np.random.default_rng(3))
    assert torch.equal(again, hard_negatives(logits, np.random.default_rng(3)))


def test_one_pair_has_no_negative():
    with pytest.raises(InputError, match="one pair has no negative"):
        hard_negatives(torch.zeros(1, 1), np.random.default_rng(0))
