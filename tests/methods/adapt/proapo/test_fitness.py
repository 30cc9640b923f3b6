"""The fitness: published numbers, a slow reference, changed candidates against whole ones."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from diptych.methods.adapt.proapo import fitness as module
from diptych.methods.adapt.proapo.fitness import (
    PromptScorer,
    Weights,
    class_embeddings,
    class_similarity,
    fitness,
    tolerance,
)

NEAR = torch.tensor([[2.0, 0, 0], [0.5, 1, 0], [0, 0, 1]])
FAR = 4 * torch.eye(3)
Y = torch.arange(3)


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_cross_entropy_breaks_a_tie_of_accuracy():
    found = fitness(torch.stack([NEAR, FAR]), Y)
    assert found.top1.tolist() == [100, 100]
    assert found.fitness == pytest.approx([45.0958, 49.6402], abs=1e-4)
    entropy = fitness(
        torch.stack([NEAR, FAR]), Y, weights=Weights(top1=0.0, cross_entropy=-1.0)
    ).fitness
    assert entropy == pytest.approx([0.490420, 0.035976], abs=1e-6)


def test_without_cross_entropy_perfect_sets_tie():
    found = fitness(torch.stack([NEAR, FAR]), Y, weights=Weights(cross_entropy=0.0)).fitness
    assert found.tolist() == [50, 50]


def test_it_is_the_papers_form_times_fifty():
    logits = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    accuracy = (logits.argmax(2) == labels).double().mean(1)
    likelihood = logits.log_softmax(2)[:, torch.arange(7), labels].mean(1)  # H, with alpha = 0.2
    assert fitness(logits, labels).fitness == pytest.approx(
        (50 * (accuracy + 0.2 * likelihood)).numpy()
    )


def test_similarity_and_tolerance_are_as_published():
    classes = normalize(torch.tensor([[1.0, 0], [1, 1]]), dim=1)
    assert class_similarity(classes).item() == pytest.approx(0.707107, abs=1e-6)
    assert tolerance(47) == pytest.approx(4.355319, abs=1e-6)
    assert tolerance(10) == pytest.approx(20.1)


def slow(images, labels, classes, logit_scale, weights):
    """One candidate in loops and float64."""
    images, classes = images.double().numpy(), classes.double().numpy()
    hits1 = hits5 = cost = 0.0
    for x, y in zip(images, labels.tolist(), strict=True):
        logits = [logit_scale * float(x @ t) for t in classes]
        rank = sum(value >= logits[y] for value in logits)
        hits1 += rank <= 1
        hits5 += rank <= 5
        cost += math.log(sum(math.exp(value) for value in logits)) - logits[y]
    pairs = sum(
        (float(classes[i] @ classes[j]) - (i == j)) ** 2
        for i in range(len(classes))
        for j in range(i, len(classes))
    )
    n = len(images)
    found = weights.top1 * 100 * hits1 / n + weights.top5 * 100 * hits5 / n
    return found - weights.cross_entropy * cost / n + weights.similarity * math.sqrt(pairs)


@pytest.mark.parametrize(
    "weights", [Weights(), Weights(top1=0.05, top5=0.2, similarity=1.0), Weights(cross_entropy=0.0)]
)
@pytest.mark.parametrize("tile", [1, 200, 10**6])
def test_the_fitness_is_that_of_loops(weights, tile, monkeypatch):
    monkeypatch.setattr(module, "_MAX_LOGITS", tile)
    images = unit(9, 6)
    labels = torch.arange(9) % 7
    classes = unit(5, 7, 6, seed=1)
    found = PromptScorer(images, labels, 8.0, weights).score(classes)
    expected = [slow(images, labels, each, 8.0, weights) for each in classes]
    assert found.fitness == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("weights", [Weights(), Weights(top5=0.3, similarity=0.5)])
@pytest.mark.parametrize("tile", [1, 150, 10**6])
def test_a_changed_candidate_scores_as_the_whole_one(weights, tile, monkeypatch):
    monkeypatch.setattr(module, "_MAX_LOGITS", tile)
    scorer = PromptScorer(unit(9, 6), torch.arange(9) % 7, 8.0, weights)
    before = unit(2, 7, 6, seed=2)
    new = unit(5, 3, 6, seed=3)
    origin = torch.tensor([0, 1, 1, 0, 1])
    which = torch.tensor([[0, 1, 2], [6, 2, 0], [3, 4, 5], [1, 3, 6], [0, 5, 2]])
    whole = before[origin].clone()
    for candidate in range(5):
        whole[candidate, which[candidate]] = new[candidate]
    expected = scorer.score(whole)
    found = scorer.score_changes(before, origin, which, new)
    np.testing.assert_allclose(found.fitness, expected.fitness, atol=1e-5)
    np.testing.assert_allclose(found.top1, expected.top1)


def test_class_embeddings_are_means_in_any_order():
    units = unit(3, 4, 6)
    rows = torch.tensor([[True, False, True, True], [False, True, False, False]])
    found = class_embeddings(rows, units)
    expected = normalize(units[:, [3, 0, 2]].mean(1), dim=1)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], units[:, 1])
    own = rows[:, None].expand(-1, 3, -1)  # the same sets, class by class
    torch.testing.assert_close(class_embeddings(own, units), found)
    twice = torch.cat([units, units[:, :1]], 1)
    more = class_embeddings(torch.tensor([[True, False, True, True, True]]), twice)[0]
    assert not torch.allclose(more, expected, atol=1e-3)


def test_a_tie_does_not_count_as_top1():
    assert fitness(torch.zeros(1, 2, 3), torch.tensor([0, 1])).top1.tolist() == [0]
