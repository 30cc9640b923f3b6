"""Distillation: the published figures of the off-diagonal one, open_clip's own loss; loops, gradients
and invariances."""

import math

import pytest
import torch
from tests.factories import det
from torch.nn import functional as F

from diptych.errors import InputError
from diptych.objectives import info_nce
from diptych.objectives.distillation import distilled, off_diagonal

NEW, OLD = (det(4, 3, 0), det(4, 3, 1)), (det(4, 3, 2), det(4, 3, 3))
EYE = torch.eye(4, dtype=torch.float64)


def test_the_sheets_figures():
    contrastive, distance = info_nce(*NEW, 1 / 0.07).item(), off_diagonal(*NEW, *OLD).item()
    assert contrastive == pytest.approx(7.2509944593, abs=1e-9)
    assert distance == pytest.approx(0.0389123125, abs=1e-9)
    assert contrastive + 20 * distance == pytest.approx(8.0292407089, abs=1e-8)
    assert off_diagonal(*NEW, *OLD, screen=False).item() == pytest.approx(0.1623005109, abs=1e-9)
    assert off_diagonal(*NEW, *OLD, reduction="mean").item() == pytest.approx(
        0.0389123125 / 4, abs=1e-10
    )


def test_turning_both_spaces_is_free_and_turning_one_is_not():
    image, text = NEW
    rows = torch.arange(9, dtype=torch.float64).reshape(3, 3)
    rotation = torch.linalg.qr(torch.sin(1.7 * rows + 5) + 0.3 * torch.cos(0.9 * rows * 6))[0]
    assert rotation[0].tolist() == pytest.approx([-0.512801, 0.475916, 0.714520], abs=1e-6)
    assert off_diagonal(image, text, image, text).item() == pytest.approx(0, abs=1e-12)
    assert off_diagonal(image @ rotation, text @ rotation, image, text).item() == pytest.approx(
        0, abs=1e-12
    )
    turned = off_diagonal(image @ rotation, text, image, text, screen=False).item()
    assert turned == pytest.approx(1.8992901073, abs=1e-9)


def test_a_perfect_old_model_and_texts_rolled_by_one():
    assert off_diagonal(EYE, EYE.roll(1, 0), EYE, EYE).item() == pytest.approx(
        4 * (math.e - 1) / (math.e + 3)
    )
    assert info_nce(EYE, EYE.roll(1, 0), 1.0).item() == pytest.approx(math.log(math.e + 3))


def test_where_the_old_model_was_wrong_everywhere_nothing_is_kept():
    image = NEW[0].clone().requires_grad_()
    loss = off_diagonal(image, NEW[1], EYE, EYE.roll(1, 0))
    loss.backward()
    assert loss.item() == 0
    assert image.grad.abs().max() == 0


def test_the_gradient_is_the_difference_of_the_two_distributions():
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
    for new, old in (
        (NEW[0] @ NEW[1].T, OLD[0] @ OLD[1].T),
        (NEW[1] @ NEW[0].T, OLD[1] @ OLD[0].T),
    ):
        for i in range(4):
            if screen and max(range(4), key=lambda j: old[i, j].item()) != i:
                continue
            kept = [j for j in range(4) if diagonal or j != i]
            p, q = (F.softmax(torch.stack([m[i, j] for j in kept]), 0) for m in (old, new))
            total += sum((a * torch.log(a / b)).item() for a, b in zip(p, q, strict=True)) / 2
    assert off_diagonal(
        *NEW, *OLD, screen=screen, include_diagonal=diagonal
    ).item() == pytest.approx(total, abs=1e-10)


def test_shapes_that_differ_and_a_wrong_reduction_are_refused():
    with pytest.raises(InputError, match="not of one batch"):
        off_diagonal(*NEW, OLD[0][:3], OLD[1][:3])
    with pytest.raises(InputError, match="choose 'sum' or 'mean'"):
        off_diagonal(*NEW, *OLD, reduction="max")


# ---- a teacher's probabilities (open_clip)


@pytest.mark.parity
@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize(("count", "seed"), [(2, 0), (7, 1), (32, 2)])
def test_open_clip_gives_the_same_losses_and_gradients(count, seed, tile):
    """Student and teacher of unlike widths and scales; the scale of the student learns from both
    terms."""
    from open_clip.loss import DistillClipLoss

    def fresh(width, at):
        generator = torch.Generator().manual_seed(10 * seed + at)
        drawn = torch.randn(count, width, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=1).requires_grad_()

    student = [
        fresh(6, 0),
        fresh(6, 1),
        torch.tensor(14.3, dtype=torch.float64, requires_grad=True),
    ]
    teacher = [
        fresh(9, 2),
        fresh(9, 3),
        torch.tensor(31.0, dtype=torch.float64, requires_grad=True),
    ]
    theirs = DistillClipLoss()(*student, *(value.detach() for value in teacher))
    ours = info_nce(*student, tile=tile), distilled(*student, *teacher, tile=tile)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
        gradients = [
            torch.autograd.grad(loss, student, retain_graph=True) for loss in (mine, other)
        ]
        for left, right in zip(*gradients, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)
    ours[1].backward()
    assert all(value.grad is None for value in teacher)


def test_distilled_equals_loops():
    total = 0.0
    new, old = 3.0 * NEW[0] @ NEW[1].T, 7.0 * OLD[0] @ OLD[1].T
    for student, teacher in ((new, old), (new.T, old.T)):
        for i in range(4):
            believed = sum(math.exp(teacher[i, j]) for j in range(4))
            own = math.log(sum(math.exp(student[i, j]) for j in range(4)))
            total += (
                sum(
                    math.exp(teacher[i, j]) / believed * (own - student[i, j].item())
                    for j in range(4)
                )
                / 8
            )
    assert distilled(*NEW, 3.0, *OLD, 7.0).item() == pytest.approx(total, abs=1e-12)


def test_gradients_of_the_distilled():
    image, text = (value.clone().requires_grad_() for value in NEW)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, y, s: distilled(x, y, s, *OLD, 7.0), (image, text, scale)
    )


def test_a_student_equal_to_its_teacher_has_no_gradient():
    image, text = (value.clone().requires_grad_() for value in OLD)
    loss = distilled(image, text, 7.0, *OLD, 7.0)
    loss.backward()
    assert max(image.grad.abs().max(), text.grad.abs().max()) < 1e-12
    logits = 7.0 * OLD[0] @ OLD[1].T
    entropy = (
        sum(
            torch.distributions.Categorical(logits=each).entropy().mean()
            for each in (logits, logits.T)
        )
        / 2
    )
    torch.testing.assert_close(loss.detach(), entropy)


def test_a_sure_teacher_of_the_diagonal_is_clip_and_a_bias_of_its_logits_is_nothing():
    torch.testing.assert_close(distilled(*NEW, 5.0, EYE, EYE, 1e4), info_nce(*NEW, 5.0))
    extended = [
        torch.cat([value, torch.full((4, 1), each, dtype=torch.float64)], 1)
        for value, each in zip(OLD, (1.0, -0.8), strict=True)
    ]
    torch.testing.assert_close(
        distilled(*NEW, 5.0, *extended, 7.0), distilled(*NEW, 5.0, *OLD, 7.0)
    )


def test_half_precision_is_computed_in_float32():
    image, text = (value.bfloat16() for value in NEW)
    loss = distilled(image, text, 5.0, *(value.bfloat16() for value in OLD), 7.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(distilled(*NEW, 5.0, *OLD, 7.0).item(), abs=0.02)


def test_a_teacher_of_another_batch_is_refused():
    with pytest.raises(InputError, match="the teacher's .* are not of one batch"):
        distilled(*NEW, 5.0, OLD[0][:3], OLD[1][:3], 7.0)
