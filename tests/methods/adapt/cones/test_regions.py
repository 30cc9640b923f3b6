"""Word-region alignment, boxes and centrality against loops, and the published target matrix."""

import math

import pytest
import torch

from diptych.methods.adapt.cones.regions import box_terms, target_matrix, word_regions


def test_the_sheets_target_matrix():
    """Two regions, three rows: concept A has two rows, B one; region 0 is A, region 1 ground."""
    assert target_matrix(torch.tensor([0, -1]), torch.tensor([0, 0, 1])).tolist() == [
        [1, 1, 0],
        [0, 0, 0],
    ]


def focal(logit, target, alpha, gamma):
    p = 1 / (1 + math.exp(-logit))
    right, share = (p, alpha) if target else (1 - p, 1 - alpha)
    return -share * (1 - right) ** gamma * math.log(right)


def test_the_alignment_is_the_focal_loss_over_regions_that_hold_something():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    classes, owner = torch.tensor([[0, -1, 1], [-1, 2, 2]]), torch.tensor([0, 0, 1, 2])
    total = sum(
        focal(float(logits[b, n, row]), int(classes[b, n]) == int(owner[row]), 0.25, 2.0)
        for b in range(2)
        for n in range(3)
        for row in range(4)
    )
    assert word_regions(logits, classes, owner).item() == pytest.approx(total / 4)
    nothing = torch.full_like(classes, -1)
    total = sum(focal(float(value), False, 0.25, 2.0) for value in logits.flatten())
    assert word_regions(logits, nothing, owner).item() == pytest.approx(total)


def test_the_alignments_gradient():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    classes, owner = torch.tensor([[0, -1, 1]]), torch.tensor([0, 1])
    torch.autograd.gradcheck(lambda x: word_regions(x, classes, owner), (logits,))


def giou(a, b):
    def area(x):
        return max(0.0, x[2] - x[0]) * max(0.0, x[3] - x[1])

    both = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    union = area(a) + area(b) - both
    hull = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    return both / union - (hull - union) / hull


def test_boxes_weigh_as_their_regions_are_central():
    boxes = torch.tensor(
        [[[0.0, 0, 0.5, 0.5], [0.1, 0.1, 0.9, 0.8], [0, 0, 1, 1]]], dtype=torch.float64
    )
    wanted = torch.tensor(
        [[[0.0, 0, 0.5, 1], [0.2, 0.1, 0.8, 0.9], [0, 0, 0.1, 0.1]]], dtype=torch.float64
    )
    held, central = (
        torch.tensor([[True, True, False]]),
        torch.tensor([[0.5, 1.0, 0.0]], dtype=torch.float64),
    )
    centre = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    box, centrality = box_terms(boxes, centre, wanted, held, central)
    one, two = (1 - giou(boxes[0, n].tolist(), wanted[0, n].tolist()) for n in range(2))
    assert box.item() == pytest.approx((0.5 * one + 1.0 * two) / 1.5, abs=1e-6)
    p = centre.sigmoid()[0]
    bce = [
        -(c * math.log(q) + (1 - c) * math.log(1 - q))
        for c, q in zip([0.5, 1.0], p.tolist(), strict=False)
    ]
    assert centrality.item() == pytest.approx(sum(bce) / 2)


def test_images_without_anything_give_terms_of_zero_with_gradients():
    boxes, centre = torch.rand(1, 3, 4, requires_grad=True), torch.rand(1, 3, requires_grad=True)
    held = torch.zeros(1, 3, dtype=torch.bool)
    box, centrality = box_terms(boxes, centre, torch.rand(1, 3, 4), held, torch.zeros(1, 3))
    (box + centrality).backward()
    assert box.item() == centrality.item() == 0
    assert boxes.grad.abs().sum() == centre.grad.abs().sum() == 0
