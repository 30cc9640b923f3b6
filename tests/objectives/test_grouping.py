"""Grouping of patches by texts: the published figures, its edges, loops and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from diptych.errors import InputError
from diptych.objectives import info_nce
from diptych.objectives.grouping import group_weights, grouped, grouping


def unit(*rows):
    return F.normalize(torch.tensor(rows, dtype=torch.float64), dim=-1)


TEXTS = torch.stack([unit((1, 0.2), (0.6, 0.8)), unit((0.1, 1), (-0.5, 1))])
PATCHES = torch.stack([unit((1, 0), (0.6, 0.8), (0, 1)), unit((0, 1), (-0.6, 0.8), (1, 0))])
SCALE = 1 / 0.07


def test_the_sheets_weights_and_group():
    for sigma in (0.0, 1 / 3):
        weights = group_weights(TEXTS, PATCHES, sigma=sigma)
        assert weights[0, 0].tolist() == pytest.approx([0.588235, 0.411765, 0], abs=1e-6)
    assert grouped(TEXTS, PATCHES)[0, 0].tolist() == pytest.approx([0.930273, 0.366868], abs=1e-6)
    for sigma in (0.99, 1.0):
        assert group_weights(TEXTS, PATCHES, sigma=sigma)[0, 0].tolist() == pytest.approx(
            [1, 0, 0], abs=1e-6
        )


@pytest.mark.parametrize(
    ("sigma", "batch", "image"), [(0.0, 0.477328, 0.348335), (0.99, 0.115883, 0.072480)]
)
def test_the_sheets_losses(sigma, batch, image):
    groups = grouped(TEXTS, PATCHES, sigma=sigma)
    assert grouping(TEXTS, groups, SCALE, negatives="batch").item() == pytest.approx(
        batch, abs=1e-6
    )
    assert grouping(TEXTS, groups, SCALE).item() == pytest.approx(image, abs=1e-6)


def test_the_sheets_columns_of_captions():
    image = torch.eye(2, dtype=torch.float64)
    columns = [info_nce(image, TEXTS[:, k], SCALE).item() for k in range(2)]
    assert columns == pytest.approx([0.0000077, 0.785927], abs=1e-6)
    assert sum(columns) / 2 == pytest.approx(0.392968, abs=1e-6)


def test_one_text_costs_nothing_and_copies_of_one_the_log_of_their_number():
    one = TEXTS[:, :1]
    assert grouping(one, grouped(one, PATCHES), SCALE).item() == pytest.approx(0, abs=1e-12)
    copies = one.expand(2, 5, 2)
    assert grouping(copies, grouped(copies, PATCHES), SCALE).item() == pytest.approx(
        math.log(5), abs=1e-12
    )


def test_patches_that_are_all_alike_share_evenly_and_the_gradient_is_finite():
    texts = TEXTS.clone().requires_grad_()
    patches = PATCHES[:, :1].expand(2, 4, 2).clone().requires_grad_()
    weights = group_weights(texts, patches)
    assert weights.tolist() == torch.full((2, 2, 4), 0.25).tolist()
    grouping(texts, grouped(texts, patches), SCALE).backward()
    assert texts.grad.isfinite().all()
    assert patches.grad.isfinite().all()


def test_a_common_factor_of_the_similarities_does_not_matter():
    torch.testing.assert_close(group_weights(TEXTS, PATCHES), group_weights(3 * TEXTS, PATCHES))
    assert not torch.allclose(
        group_weights(TEXTS, PATCHES, weighting="softmax"),
        group_weights(3 * TEXTS, PATCHES, weighting="softmax"),
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from(["minmax", "softmax"]),
    st.integers(0, 99),
)
def test_equal_to_loops(images, count, patches, sigma, weighting, seed):
    generator = torch.Generator().manual_seed(seed)
    t = F.normalize(torch.randn(images, count, 3, generator=generator, dtype=torch.float64), dim=-1)
    p = F.normalize(
        torch.randn(images, patches, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    found = group_weights(t, p, sigma=sigma, weighting=weighting)
    for i in range(images):
        for k in range(count):
            s = [float(t[i, k] @ p[i, n]) for n in range(patches)]
            if weighting == "minmax":
                w = [(v - min(s)) / (max(s) - min(s) + 1e-10) for v in s]
            else:
                w = [math.exp(v) / sum(map(math.exp, s)) for v in s]
            w = [v if v >= sigma - 1e-6 or v >= max(w) - 1e-6 else 0 for v in w]
            expected = [v / sum(w) for v in w] if sum(w) > 1e-6 else [1 / patches] * patches
            assert found[i, k].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_gradients_flow_through_the_weights(negatives):
    def loss(texts, patches):
        return grouping(texts, grouped(texts, patches), 3.0, negatives=negatives)

    inputs = (TEXTS.clone().requires_grad_(), PATCHES.clone().requires_grad_())
    if negatives == "image":
        assert torch.autograd.gradcheck(loss, inputs)
    held = grouping(TEXTS, grouped(TEXTS, inputs[1]).detach(), 3.0, negatives=negatives)
    assert not held.requires_grad
    loss(*inputs).backward()
    assert inputs[1].grad.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: group_weights(TEXTS, PATCHES, sigma=1.5), "sigma is 1.5"),
        (lambda: group_weights(TEXTS, PATCHES, weighting="min"), "choose 'minmax'"),
        (lambda: group_weights(TEXTS[0], PATCHES), "must be"),
        (lambda: grouping(TEXTS, TEXTS, 1.0, negatives="pixel"), "choose 'image'"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 99))
def test_texts_that_are_not_there_change_nothing(counts, seed):
    """Each image by itself, with as many texts as it has; the mean over those that have some."""
    drawn = torch.Generator().manual_seed(seed)
    shape = (len(counts), 3, 4)
    texts, groups = (
        F.normalize(torch.randn(shape, generator=drawn).double(), dim=-1) for _ in "tg"
    )
    there = torch.arange(3) < torch.tensor(counts)[:, None]
    alone = [
        float(grouping(texts[at : at + 1, :n], groups[at : at + 1, :n], 9.0))
        for at, n in enumerate(counts)
        if n
    ]
    found = float(grouping(texts, groups, 9.0, there=there))
    assert found == pytest.approx(sum(alone) / max(1, len(alone)), abs=1e-9)
    weighted = sum(n * loss for n, loss in zip(filter(None, counts), alone, strict=True))
    every = float(grouping(texts, groups, 9.0, there=there, mean="texts"))
    assert every == pytest.approx(weighted / max(1, sum(counts)), abs=1e-9)


def test_all_texts_there_is_the_loss_without_a_mask():
    groups = grouped(TEXTS, PATCHES)
    there = torch.ones(TEXTS.shape[:2], dtype=torch.bool)
    expected = float(grouping(TEXTS, groups, SCALE))
    assert float(grouping(TEXTS, groups, SCALE, there=there)) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(InputError, match="takes no `there`"):
        grouping(TEXTS, groups, SCALE, negatives="batch", there=there)
