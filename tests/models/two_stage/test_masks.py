"""The mask branch: targets and losses against torchvision's and a slow reference, and pasting."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import maskrcnn_loss, paste_masks_in_image

from diptych.models.two_stage.masks import (
    SIDE,
    MaskBranch,
    mask_targets,
    mask_terms,
    pasted,
)


def blob(side, seed):
    """A random object without holes, (side, side) bool."""
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (side, side), mode="bilinear", align_corners=False)[0, 0] > 0


def test_the_loss_is_torchvisions():
    """Theirs reads the masks of whole images, and counts corners from the centre of a pixel."""
    side, S = 112, 28
    planes = torch.stack([blob(side, seed) for seed in (0, 1)])
    truth = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4)  # the boxes are the whole image
    rois = torch.tensor([[10.0, 12, 60, 63], [30, 40, 100, 94], [20, 8, 73, 90]])
    classes = torch.tensor([2, 0, 1])
    logits = torch.randn(3, 3, S, S)
    targets = mask_targets(planes[[0, 1, 1]], truth, rois / side, S)
    found = mask_terms(logits[torch.arange(3), classes], targets, torch.tensor([0, 1, 1]), 3)
    theirs = maskrcnn_loss(
        logits,
        [rois[:1] - 0.5, rois[1:] - 0.5],
        [planes[:1].float(), planes[[1, 1]].float()],
        [classes[:1], classes[1:]],
        [torch.tensor([0]), torch.tensor([0, 1])],
    )
    assert float(found["masks"].sum() / 3) == pytest.approx(float(theirs), rel=1e-5)
    assert found["masks_count"].tolist() == [1, 2, 0]


def slow_target(inside, truth, box, size):
    """The share of each cell of a box that is in an object, by many points; float64."""
    M = inside.shape[0]
    points = 24
    found = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        for column in range(size):
            total = 0
            for j in range(points):
                for i in range(points):
                    x = box[0] + (column + (i + 0.5) / points) / size * (box[2] - box[0])
                    y = box[1] + (row + (j + 0.5) / points) / size * (box[3] - box[1])
                    u = int((x - truth[0]) / (truth[2] - truth[0]) * M // 1)
                    v = int((y - truth[1]) / (truth[3] - truth[1]) * M // 1)
                    total += 0 <= u < M and 0 <= v < M and bool(inside[v, u])
            found[row, column] = total / points**2
    return found


def test_targets_are_the_shares_of_cells_also_beyond_the_object():
    inside = blob(48, 3)
    truth = [0.2, 0.3, 0.6, 0.9]
    for box in ([0.25, 0.4, 0.5, 0.8], [0.1, 0.1, 0.7, 1.0], [0.5, 0.2, 0.9, 0.5]):
        found = mask_targets(inside[None], torch.tensor([truth]), torch.tensor([box]), 4)[0]
        wanted = slow_target(inside, truth, box, 4)
        assert (found - wanted).abs().max() < 0.08
    bytes_ = (inside * 255).to(torch.uint8)
    rows = torch.tensor([truth])
    assert torch.allclose(
        mask_targets(bytes_[None], rows, rows), mask_targets(inside[None], rows, rows)
    )


def test_a_box_of_its_object_has_its_mask():
    inside = blob(SIDE, 5)
    box = torch.tensor([[0.1, 0.2, 0.7, 0.6]])
    assert torch.allclose(mask_targets(inside[None], box, box)[0], inside.float(), atol=1e-5)


def test_no_boxes_have_no_loss_and_give_gradients():
    branch = MaskBranch(4, 4, 3)
    maps = [torch.randn(2, 4, side, side) for side in (8, 4, 2, 1)]
    none = torch.zeros(0).long()
    logits = branch.of_classes(maps, torch.zeros(0, 4), none, none)
    found = mask_terms(logits, torch.zeros(0, SIDE, SIDE), none, 2)
    assert found["masks"].tolist() == found["masks_count"].tolist() == [0, 0]
    found["masks"].sum().backward()
    assert all(value.grad is not None for value in branch.parameters())


def test_each_class_has_a_mask_of_its_own_unless_one_is_for_all():
    torch.manual_seed(0)
    maps = [torch.randn(1, 4, side, side) for side in (8, 4, 2, 1)]
    boxes = torch.tensor([[0.0, 0, 0.5, 0.5]]).expand(2, 4)
    image = torch.zeros(2).long()
    classes = torch.tensor([0, 2])
    by_class = MaskBranch(4, 4, 3).of_classes(maps, boxes, image, classes)
    assert by_class.shape == (2, SIDE, SIDE)
    assert not torch.allclose(by_class[0], by_class[1])
    for_all = MaskBranch(4, 4).of_classes(maps, boxes, image, classes)
    assert torch.equal(for_all[0], for_all[1])


def test_masks_are_pasted_as_torchvision_does_but_for_the_rounding_of_boxes():
    masks = torch.stack([blob(SIDE, seed).float() for seed in range(3)])
    corners = torch.tensor([[40.0, 30, 240, 190], [5, 5, 290, 195], [100, 20, 210, 120]])
    size = (300, 200)
    ours = pasted(masks, corners / torch.tensor([300, 200, 300, 200]), size)
    theirs = paste_masks_in_image(masks[:, None], corners, (200, 300))[:, 0] >= 0.5
    for a, b in zip(ours, theirs, strict=True):
        assert float((a & b).sum() / (a | b).sum()) > 0.95
    assert pasted(masks[:0], corners[:0], size).shape == (0, 200, 300)


def test_a_small_mask_lies_in_its_box_alone():
    for left in range(4):
        box = torch.tensor([[left / 8, 0.0, (left + 3) / 8, 0.5]])
        found = pasted(torch.ones(1, SIDE, SIDE), box, (8, 4))[0]
        wanted = torch.zeros(4, 8, dtype=torch.bool)
        wanted[:2, left : left + 3] = True
        assert torch.equal(found, wanted)
