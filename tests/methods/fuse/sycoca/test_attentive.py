"""Attentive masking: the numbers of the sheet, ties, shares that are no whole number of patches."""

import pytest
import torch

from diptych.methods.fuse.sycoca.attentive import attentive_scores, highest, lowest

PATCHES = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]])
WORDS = torch.tensor([[[1.0, 0.1], [0.7, 0.7]]])
REAL = torch.tensor([[True, True]])


def test_scores_and_both_masks_are_those_computed_by_hand():
    scores = attentive_scores(PATCHES, WORDS, REAL)
    assert scores[0].tolist() == pytest.approx([0.995037, 0.989949, 0.707107, -0.707107], abs=1e-6)
    assert highest(scores, 0.5).tolist() == [[True, True, False, False]]
    assert lowest(scores, 0.5).tolist() == [[False, False, True, True]]


def test_scores_have_no_gradient_and_no_scale():
    patches, words = PATCHES.clone().requires_grad_(), WORDS.clone().requires_grad_()
    scores = attentive_scores(7 * patches, words / 3, REAL)
    assert not scores.requires_grad
    torch.testing.assert_close(scores, attentive_scores(PATCHES, WORDS, REAL))


def test_pads_do_not_count():
    pads = torch.tensor([[[-1.0, 0.0], [9.0, -3.0]]])
    real = torch.tensor([[True, True, False, False]])
    wanted = attentive_scores(PATCHES, WORDS, REAL)
    for others in (pads, pads.flip(1), -pads):
        found = attentive_scores(PATCHES, torch.cat([WORDS, others], 1), real)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(("count", "chosen"), [(4, 2), (9, 4), (1, 0)])
def test_half_of_the_patches_is_rounded_down(count, chosen):
    for scores in (torch.randn(3, count), torch.zeros(3, count)):  # and where all are equal
        high, low = highest(scores, 0.5), lowest(scores, 0.5)
        assert high.sum(1).tolist() == low.sum(1).tolist() == [chosen] * 3
        assert not (high & low).any()
        assert torch.equal(high, ~low) == (count % 2 == 0)
    assert not highest(scores, 0.0).any()
