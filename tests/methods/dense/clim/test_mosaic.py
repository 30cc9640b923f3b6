"""How many mosaics a number of images gives, where their tiles are, and what they show."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.methods.dense.clim.mosaic import assemble, counts, tile_boxes, unit


def test_the_published_numbers_of_mosaics():
    assert unit((2, 3, 4)) == 29
    assert counts(32, (2, 3, 4)) == (1, 3)
    assert counts(58, (2, 3, 4)) == (2, 0)
    with pytest.raises(
        InputError, match=r"28 images make no mosaics of 2 x 2 and 3 x 3 and 4 x 4 t"
    ):
        counts(28, (2, 3, 4))


def test_tiles_are_numbered_row_by_row():
    assert tile_boxes(2).tolist() == [
        [0, 0, 0.5, 0.5],
        [0.5, 0, 1, 0.5],
        [0, 0.5, 0.5, 1],
        [0.5, 0.5, 1, 1],
    ]
    assert tile_boxes(3)[5].tolist() == [2 / 3, 1 / 3, 1, 2 / 3]


@given(st.integers(1, 4), st.integers(1, 3))
def test_a_tile_lies_in_its_box(side, number):
    tiles = torch.arange(number * side**2).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    mosaics = assemble(tiles, side, 4 * side)
    for mosaic in range(number):
        for at, box in enumerate((tile_boxes(side) * 4 * side).round().long().tolist()):
            x0, y0, x1, y1 = box
            assert (mosaics[mosaic, :, y0:y1, x0:x1] == mosaic * side**2 + at).all()


def test_every_size_of_mosaic_is_resized_to_the_same_one():
    for side in (1, 2, 3, 4):
        mosaics = assemble(torch.ones(2 * side**2, 3, 8, 8), side, 20)
        torch.testing.assert_close(mosaics, torch.ones(2, 3, 20, 20))
