"""Masks from polygons and runs, against slow references."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from diptych.data.masks import VOID
from diptych.data.outlines import (
    Outline,
    OutlineMask,
    checked_runs,
    from_rle,
    from_runs,
    inside,
    runs_to_text,
    text_to_runs,
    to_rle,
    to_runs,
)
from diptych.data.sample import BadSample

SHAPE = (6, 9)


def crossings(corners, x, y):
    """How many sides of a polygon a ray from (x, y) to the left crosses."""
    count = 0
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if min(y0, y1) <= y < max(y0, y1):
            count += x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x
    return count


@given(
    st.lists(
        st.tuples(
            st.integers(-16, 16 * 10).map(lambda at: at / 8),
            st.integers(-16, 16 * 7).map(lambda at: at / 8),
        ),
        min_size=3,
        max_size=8,
    )
)
def test_pixels_are_inside_by_their_centres(corners):
    found = inside(np.array(corners), SHAPE)
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            odd = crossings(corners, column + 0.5, row + 0.5) % 2
            assert found[row, column] == odd, (row, column)


def test_a_large_polygon_is_nearly_that_of_pillow():
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    corners = np.stack([100 + 70 * np.cos(angle), 80 + 50 * np.sin(angle)], axis=1)
    image = Image.new("L", (200, 160))
    ImageDraw.Draw(image).polygon([tuple(each) for each in corners - 0.5], fill=1)
    other = np.asarray(image) == 1
    mine = inside(corners, (160, 200))
    assert (mine & other).sum() / (mine | other).sum() > 0.98


@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_runs_are_those_of_the_columns(bits):
    plane = np.array(bits).reshape(3, 4)
    runs = [0]
    last = False
    for bit in plane.T.ravel():
        if bit != last:
            runs.append(0)
            last = bit
        runs[-1] += 1
    assert np.array_equal(from_runs(np.array(runs), (3, 4)), plane)


def test_later_outlines_cover_earlier_ones():
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]])
    mask = OutlineMask((3, 2), [Outline(4, corners=square), Outline(0, runs=np.array([2, 3, 1]))])
    expected = [[4, 0, 0], [4, 0, VOID]]
    assert np.asarray(mask.decode()).tolist() == expected
    assert np.asarray(Image.open(io.BytesIO(mask.read()))).tolist() == expected
    with pytest.raises(BadSample, match="bomb"):
        OutlineMask((1 << 20, 1 << 20), []).decode()


@given(st.integers(0, 2**24 - 1), st.sampled_from([(1, 24), (24, 1), (4, 6), (6, 4)]))
def test_pixels_are_runs_and_back_again(bits, shape):
    plane = np.array([bits >> at & 1 for at in range(24)], bool).reshape(shape)
    runs = to_runs(plane)
    assert runs.sum() == 24
    assert (runs[1:] > 0).all()
    assert np.array_equal(from_runs(runs, shape), plane)
    mask = np.asarray(from_rle(to_rle(plane)).decode())
    assert np.array_equal(mask, plane.astype(np.uint8))


@given(st.lists(st.integers(0, 2**24), min_size=1, max_size=12))
def test_runs_are_a_text_and_back_again(runs):
    assert text_to_runs(runs_to_text(np.array(runs))).tolist() == runs


@pytest.mark.parametrize("text", ["", "é", "P", "PPPPPPPP0", "~", "1 2"])
def test_other_texts_are_no_runs(text):
    with pytest.raises(ValueError, match=r"."):
        checked_runs(text, (2, 2))


@pytest.mark.parametrize(
    "value",
    [
        {"size": [2, 2]},
        {"size": [2], "counts": [4]},
        {"size": [0, 4], "counts": [0]},
        [[1, 2, 3, 4]],
    ],
)
def test_other_values_are_no_object_mask(value):
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_rle(value)


def test_an_object_mask_has_all_parts_of_its_object():
    parts = [Outline(1, np.array([[x, 0], [x + 1, 0], [x + 1, 1], [x, 1]])) for x in (0, 2)]
    mask = OutlineMask((3, 2), parts, ground=0)
    assert np.asarray(mask.decode()).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask.read()))), mask.decode())
