"""The detection head: boxes from cells, and which of them are kept."""

import pytest
import torch

from diptych.errors import InputError
from diptych.models.detection import GroundingHead, HeadConfig, chosen
from diptych.towers.encoded import Encoded


def test_boxes_are_told_from_the_centre_of_the_cell():
    head = GroundingHead(8, 4, HeadConfig(width=16, depth=1, heads=1))
    torch.nn.init.zeros_(head.sides.weight)
    with torch.no_grad():
        head.sides.bias.copy_(torch.tensor([0.5, 1.0, 2.0, 0.25]).log())
    regions = head(Encoded(torch.zeros(1, 7, 8), torch.zeros(1, 8), prefix=1, grid=(2, 3)))
    torch.testing.assert_close(
        regions.boxes[0, 4], torch.tensor([1 / 3, 0.5 / 2, 3.5 / 3, 1.75 / 2])
    )
    assert regions.vectors.shape == (1, 6, 4)
    assert regions.centre.shape == (1, 6)


def test_boxes_of_one_class_that_overlap_leave_the_likeliest():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 0.1, 0.1]])
    found = chosen(
        boxes,
        torch.tensor([[0.5, 0.4], [0.6, 0.0], [0.2, 0.01]]),
        score_threshold=0.05,
        nms_threshold=0.6,
        max_boxes=9,
    )
    assert found.classes.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.boxes, boxes[[1, 0, 2]])
    assert (
        len(
            chosen(
                boxes, torch.ones(3, 2), score_threshold=0.05, nms_threshold=0.6, max_boxes=2
            ).scores
        )
        == 2
    )


def test_a_tower_without_positions_is_refused():
    with pytest.raises(InputError, match="pools its positions away"):
        GroundingHead(8, 4, HeadConfig(width=16, heads=1))(
            Encoded(torch.zeros(1, 1, 8), torch.zeros(1, 8))
        )
    with pytest.raises(InputError, match="is none"):
        HeadConfig(width=0)
