"""The two losses against published figures and other people's code."""

import pytest
import torch
from tests.factories import det
from torch.nn import functional as F

from diptych.objectives import both_losses, info_nce, pair_losses, sigmoid_pairs


def test_contrastive_gap_anchor_of_the_clip_loss():
    for tile in (None, 1, 3):
        assert info_nce(det(4, 3, 0), det(4, 3, 1), 100.0, tile=tile).item() == pytest.approx(
            50.4690065818, abs=1e-9
        )


def test_mcl_anchors_plain_and_masked_to_groups():
    image, text, groups = det(6, 3, 0), det(6, 3, 1), torch.tensor([0, 0, 1, 1, 0, 1])
    assert info_nce(image, text, 10.0).item() == pytest.approx(6.3199705523, abs=1e-9)
    for tile in (None, 4):
        rows, columns = both_losses(
            image, text, 10.0, allowed=lambda i, j: groups[i, None] == groups[None, j], tile=tile
        )
        assert (rows.mean() + columns.mean()).item() / 2 == pytest.approx(3.6644173514, abs=1e-9)
    apart = [info_nce(image[groups == g], text[groups == g], 10.0) for g in (0, 1)]
    assert sum(apart).item() / 2 == pytest.approx(3.6644173514, abs=1e-9)  # groups of equal size


@pytest.mark.parametrize(
    ("alpha", "figures"),
    [
        (0.0, (0.179979, 0.199651, 0.189815)),
        (0.4, (0.248376, 0.300186, 0.274281)),
        (1.0, (0.350971, 0.450989, 0.40098)),
    ],
)
def test_albef_anchors_with_momentum_keys_queue_and_soft_targets(alpha, figures):
    image = torch.eye(2, dtype=torch.float64)
    text = F.normalize(torch.tensor([[1, 0.2], [0.3, 1]], dtype=torch.float64), dim=1)
    images = torch.cat(
        [image, F.normalize(torch.tensor([[1, 1], [-1, 0.5]], dtype=torch.float64), dim=1)]
    )
    texts = torch.cat(
        [text, F.normalize(torch.tensor([[0.5, 1], [1, -1]], dtype=torch.float64), dim=1)]
    )
    hard = torch.eye(2, 4, dtype=torch.float64)
    to_text = alpha * (image @ texts.T / 0.07).softmax(1) + (1 - alpha) * hard
    to_image = alpha * (text @ images.T / 0.07).softmax(1) + (1 - alpha) * hard
    loss = info_nce(
        image, text, 1 / 0.07, image_keys=images, text_keys=texts, targets=(to_text, to_image)
    )
    apart = (
        pair_losses(image, texts, 1 / 0.07, targets=to_text).mean().item(),
        pair_losses(text, images, 1 / 0.07, targets=to_image).mean().item(),
    )
    assert (*apart, loss.item()) == pytest.approx(figures, abs=1e-6)


def test_a_teacher_equal_to_the_student_leaves_no_gradient():
    image, text = det(4, 3, 0).requires_grad_(), det(4, 3, 1)
    target = (7 * image.detach() @ text.T).softmax(1)
    loss = info_nce(image, text, 7.0, text_keys=text, targets=(target, torch.full((4,), -1)))
    assert torch.autograd.grad(loss, image)[0].abs().max() < 1e-12


@pytest.mark.parametrize(
    ("smoothing", "sigma", "total"),
    [(0.0, 1.0, 1.403262), (0.1, 1.0, 1.494373), (0.0, 0.07, 0.001568), (0.1, 0.07, 1.303156)],
)
def test_align_anchors_sum_and_smoothing(smoothing, sigma, total):
    cosines = torch.tensor([[0.9, 0.1, 0], [0.2, 0.8, 0.1], [0, 0.3, 0.7]])
    loss = info_nce(cosines, torch.eye(3), 1 / sigma, smoothing=smoothing, directions="sum")
    assert loss.item() == pytest.approx(total, abs=3e-6)
    assert info_nce(cosines, torch.eye(3), 1 / sigma, smoothing=smoothing).item() == pytest.approx(
        total / 2, abs=2e-6
    )


def test_align_anchor_of_the_gradient_of_its_temperature():
    cosines = torch.tensor([[0.9, 0.1, 0], [0.2, 0.8, 0.1], [0, 0.3, 0.7]])
    sigma = torch.ones((), requires_grad=True)
    info_nce(cosines, torch.eye(3), 1 / sigma, smoothing=0.1).backward()
    assert sigma.grad.item() == pytest.approx(0.291323, abs=1e-6)


def test_keys_of_the_batch_itself_change_nothing():
    image, text = det(5, 3, 0), det(5, 3, 1)
    plain = info_nce(image, text, 9.0)
    torch.testing.assert_close(info_nce(image, text, 9.0, image_keys=image), plain)
    torch.testing.assert_close(
        info_nce(image, text, 9.0, image_keys=image, text_keys=text, tile=2), plain
    )
    moved = info_nce(
        image,
        text,
        9.0,
        text_keys=text.flip(0),
        image_keys=image.flip(0),
        targets=torch.arange(5).flip(0),
    )
    torch.testing.assert_close(moved, plain)


@pytest.mark.parity
@pytest.mark.parametrize("tile", [None, 16])
def test_open_clip_gives_the_same_losses_and_gradients(tile):
    pytest.importorskip("open_clip")
    from open_clip.loss import ClipLoss, SigLipLoss

    def fresh():
        image, text = (
            F.normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(s)), dim=1)
            for s in (0, 1)
        )
        return [t.requires_grad_() for t in (image, text, torch.tensor(14.3), torch.tensor(-10.0))]

    for ours, theirs in (
        (lambda i, t, s, b: info_nce(i, t, s, tile=tile), lambda i, t, s, b: ClipLoss()(i, t, s)),
        (
            lambda i, t, s, b: sigmoid_pairs(i, t, s, b, tile=tile),
            lambda i, t, s, b: SigLipLoss()(i, t, s, b),
        ),
    ):
        mine, right = fresh(), fresh()
        a, b = ours(*mine), theirs(*right)
        torch.testing.assert_close(a, b)
        a.backward()
        b.backward()
        for left, other in zip(mine, right, strict=True):
            if other.grad is not None:
                torch.testing.assert_close(left.grad, other.grad, rtol=1e-4, atol=1e-6)
