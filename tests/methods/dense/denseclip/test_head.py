"""The pyramid of a ViT and Semantic FPN: shapes, what reaches what, and norms."""

import pytest
import torch
from torch import nn

from diptych.methods.dense.denseclip.head import SemanticFPN, VitPyramid, norm_of


def test_a_vits_maps_become_four_scales():
    pyramid = VitPyramid(8, "batch")
    maps = pyramid([torch.randn(2, 8, 5, 5) for _ in range(4)])
    assert [tuple(each.shape[1:]) for each in maps] == [
        (8, 20, 20),
        (8, 10, 10),
        (8, 5, 5),
        (8, 2, 2),
    ]
    third = torch.randn(2, 8, 5, 5)
    same = pyramid([torch.zeros(2, 8, 5, 5)] * 2 + [third] + [torch.zeros(2, 8, 5, 5)])[2]
    torch.testing.assert_close(same, nn.functional.group_norm(third, 1))
    kinds = [type(layer) for layer in pyramid.adapters[0]]
    assert kinds == [nn.ConvTranspose2d, nn.BatchNorm2d, nn.GELU, nn.ConvTranspose2d]


def test_logits_have_the_size_of_the_finest_map_and_read_all():
    torch.manual_seed(0)
    head = SemanticFPN((4, 6, 8, 8), width=8, inner=8, classes=3, dropout=0.0)
    assert [len(branch) for branch in head.branches] == [1, 1, 2, 3]
    maps = [
        torch.randn(1, width, side, side, requires_grad=True)
        for width, side in ((4, 9), (6, 5), (8, 2), (8, 1))
    ]
    logits = head(maps)
    assert logits.shape == (1, 3, 9, 9)
    logits.square().sum().backward()
    assert all(each.grad is not None and bool(each.grad.any()) for each in maps)


def test_the_sum_is_that_of_the_branches():
    """One map: a lateral and an output convolution, one of the branch, the classifier."""
    torch.manual_seed(0)
    head = SemanticFPN((4,), width=8, inner=8, classes=2, dropout=0.0).double()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    lateral, output = head.pyramid.inner_blocks[0], head.pyramid.layer_blocks[0]
    conv, norm, _ = head.branches[0][0]
    expected = head.classify(torch.relu(norm(conv(output(lateral(x))))))
    torch.testing.assert_close(head([x]), expected)


@pytest.mark.parametrize(("width", "groups"), [(128, 32), (48, 8), (8, 4), (18, 1), (5, 1)])
def test_groups_of_channels_hold_two_or_more(width, groups):
    norm = norm_of("group")(width)
    assert norm.num_groups == groups
