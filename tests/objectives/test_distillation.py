"""Off-diagonal distillation: the sheet's figures, loops, gradients and invariances."""

import math

import pytest
import torch
from tests.objectives.test_contrastive import det
from torch.nn import functional as F

from diptych.errors import InputError
from diptych.objectives import info_nce
from diptych.objectives.distillation import off_diagonal

NEW, OLD = (det(4, 3, 0), det(4, 3, 1)), (det(4, 3, 2), det(4, 3, 3))
EYE = torch.eye(4, dtype=torch.float64)


def test_the_sheets_figures():
    contrastive, distance = info_nce(*NEW, 1 / 0.07).item(), off_diagonal(*NEW, *OLD).item()
    assert contrastive == pytest.approx(7.2509944593, abs=1e-9)
    assert distance == pytest.approx(0.0389123125, abs=1e-9)
    assert contrastive + 20 * distance == pytest.approx(8.0292407089, abs=1e-8)
    assert off_diagonal(*NEW, *OLD, screen=False).item() == pytest.approx(0.1623005109, abs=1e-9)
    assert off_diagonal(*NEW, *OLD, reduction="mean").item() == pytest.approx(0.0389123125 / 4, abs=1e-10)


def test_turning_both_spaces_is_free_and_turning_one_is_not():
    image, text = NEW
    rows = torch.arange(9, dtype=torch.float64).reshape(3, 3)
    rotation = torch.linalg.qr(torch.sin(1.7 * rows + 5) + 0.3 * torch.cos(0.9 * rows * 6))[0]
    assert rotation[0].tolist() == pytest.approx([-0.512801, 0.475916, 0.714520], abs=1e-6)
    assert off_diagonal(image, text, image, text).item() == pytest.approx(0, abs=1e-12)
    assert off_diagonal(image @ rotation, text @ rotation, image, text).item() == pytest.approx(0, abs=1e-12)
    turned = off_diagonal(image @ rotation, text, image, text, screen=False).item()
    assert turned == pytest.approx(1.8992901073, abs=1e-9)


def test_a_perfect_old_model_and_texts_rolled_by_one():
    assert off_diagonal(EYE, EYE.roll(1, 0), EYE, EYE).item() == pytest.approx(4 * (math.e - 1) / (math.e + 3))
    assert info_nce(EYE, EYE.roll(1, 0), 1.0).item() == pytest.approx(math.log(math.e + 3))


def test_where_the_old_model_was_wrong_everywhere_nothing_is_kept():
    image = NEW[0].clone().requires_grad_()
    loss = off_diagonal(image, NEW[1], EYE, EYE.roll(1, 0))
    loss.backward()
    assert loss.item() == 0
    assert image.grad.abs().max() == 0


def test_the_gradient_is_the_difference_of_the_two_distributions_and_none_reaches_the_old_model():
    matrix = (NEW[0] @ NEW[1].T).clone().requires_grad_()
    old_image, old_text = (value.clone().requires_grad_() for value in OLD)
    off_diagonal(matrix, EYE, old_image, old_text, screen=False).backward()
    old = OLD[0] @ OLD[1].T
    rows = matrix.detach().softmax(1) - old.softmax(1)
    columns = matrix.detach().softmax(0) - old.softmax(0)
    torch.testing.assert_close(matrix.grad, (rows + columns) / 2)
    assert old_image.grad is None
    assert old_text.grad is None


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
def test_equal_to_loops(screen, diagonal):
    total = 0.0
    for new, old in ((NEW[0] @ NEW[1].T, OLD[0] @ OLD[1].T), (NEW[1] @ NEW[0].T, OLD[1] @ OLD[0].T)):
        for i in range(4):
            if screen and max(range(4), key=lambda j: old[i, j].item()) != i:
                continue
            kept = [j for j in range(4) if diagonal or j != i]
            p, q = (F.softmax(torch.stack([m[i, j] for j in kept]), 0) for m in (old, new))
            total += sum((a * torch.log(a / b)).item() for a, b in zip(p, q, strict=True)) / 2
    assert off_diagonal(*NEW, *OLD, screen=screen, include_diagonal=diagonal).item() == pytest.approx(total, abs=1e-10)


def test_shapes_that_differ_and_a_wrong_reduction_are_refused():
    with pytest.raises(InputError, match="not of one batch"):
        off_diagonal(*NEW, OLD[0][:3], OLD[1][:3])
    with pytest.raises(InputError, match="choose 'sum' or 'mean'"):
        off_diagonal(*NEW, *OLD, reduction="max")
