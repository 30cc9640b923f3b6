"""The losses of maps: the sheet's number, a reference in loops, pixels without a class."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.methods.dense.denseclip.losses import pixel_ce, pixel_hits


def test_the_loss_of_one_pixel():
    scores = torch.tensor([0.3, 0.1], dtype=torch.float64).view(1, 2, 1, 1)
    total, count = pixel_ce(scores / 0.07, torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert float(total) == pytest.approx(0.055844, abs=1e-6)
    assert 0.4 * float(total / count) == pytest.approx(0.022338, abs=1e-6)


def enlarged(values, height, width):
    """A map (h, w) at each pixel, bilinear between the centres of cells, in loops."""
    h, w = len(values), len(values[0])

    def around(at, length, of):
        place = min(max((at + 0.5) * length / of - 0.5, 0), length - 1)
        low = int(place)
        return low, min(low + 1, length - 1), place - low

    found = []
    for y in range(height):
        top, bottom, down = around(y, h, height)
        row = []
        for x in range(width):
            left, right, across = around(x, w, width)
            upper = values[top][left] * (1 - across) + values[top][right] * across
            lower = values[bottom][left] * (1 - across) + values[bottom][right] * across
            row.append(upper * (1 - down) + lower * down)
        found.append(row)
    return found


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_sums_and_counts_are_those_of_loops(seed):
    torch.manual_seed(seed)
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 4, 5), dtype=torch.uint8)
    labels[labels == 3] = 255
    total, count = pixel_ce(logits, labels)
    hits = pixel_hits(logits, labels)
    for image in range(2):
        maps = [enlarged(logits[image, k].tolist(), 4, 5) for k in range(3)]
        loss = 0.0
        known = 0
        right = 0
        for y in range(4):
            for x in range(5):
                label = int(labels[image, y, x])
                if label == 255:
                    continue
                values = [each[y][x] for each in maps]
                loss += math.log(sum(map(math.exp, values))) - values[label]
                known += 1
                right += max(range(3), key=values.__getitem__) == label
        assert float(total[image]) == pytest.approx(loss)
        assert int(count[image]) == known
        assert int(hits[image]) == right


def test_pixels_without_a_class_have_no_gradient():
    logits = torch.zeros(1, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    total, count = pixel_ce(logits, torch.tensor([[[1, 255]]], dtype=torch.uint8))
    total.sum().backward()
    assert logits.grad is not None
    assert logits.grad[..., 0].flatten().tolist() == [0.5, -0.5]
    assert not logits.grad[..., 1].any()
    assert int(count) == 1


def test_gradients_are_those_of_differences():
    labels = torch.tensor([[[0, 1], [255, 1]]], dtype=torch.uint8)
    logits = torch.randn(1, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pixel_ce(x, labels)[0], logits)
