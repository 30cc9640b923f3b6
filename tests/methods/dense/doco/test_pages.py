"""Pages: their boxes as shares, random ones of many, and pages that cannot be used."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.methods.dense.doco_helpers import Pages, words

from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Box
from diptych.errors import InputError
from diptych.methods.dense.doco.pages import PageView, check_units, wrong_units
from diptych.rng import generator


def view(max_boxes=9, **options):
    preprocess = Preprocess(size=32, resize="squash")
    return PageView(
        preprocess=preprocess, max_boxes=max_boxes, tokenizer=words(), sampled=True, **options
    )


def look(sample, progress=None, **options):
    return view(**options)(sample, generator(0, "view"), progress)


class Blank:
    def decode(self, at_least=None):
        return Image.new("RGB", (96, 66), (240, 240, 240))

    def read(self):
        return b""


def test_boxes_are_shares_of_the_page_with_their_words():
    sample = Pages()[0]
    found = look(sample)
    count = len(sample.boxes)
    assert found["fields.regions.there"].tolist() == [True] * count + [False] * (9 - count)
    expected = np.array([box.xyxy for box in sample.boxes]) / [96, 66, 96, 66]
    assert np.allclose(found["fields.regions"][:count], expected, atol=1e-6)
    tokenizer = words()
    assert found["texts.regions"][:count] == tokenizer.encode([box.text for box in sample.boxes])


def test_of_many_boxes_random_ones_are_taken_in_training_and_the_first_else():
    sample = Pages(kind="text", lines=4)[1]
    assert len(sample.boxes) > 3
    first = look(sample, max_boxes=3)["fields.regions"]
    assert torch.equal(first, look(sample, max_boxes=9)["fields.regions"][:3])
    drawn = [
        view(max_boxes=3)(sample, generator(seed, "view"), 0.5)["fields.regions"][:, :2].tolist()
        for seed in range(8)
    ]
    assert len({str(each) for each in drawn}) > 1
    every = look(sample, max_boxes=9)["fields.regions"][:, :2].tolist()
    for rows in drawn:
        places = [every.index(row) for row in rows]
        assert places == sorted(places)  # texts stay in reading order
        assert len(set(places)) == 3


def test_boxes_are_cut_with_the_page():
    sample = Pages(kind="text")[0]
    for seed in range(4):
        found = view(jitter=(1.5, 2.0))(sample, generator(seed, "view"), 0.5)
        boxes = found["fields.regions"][found["fields.regions.there"]]
        assert (boxes >= 0).all()
        assert (boxes <= 1).all()


def test_a_page_without_boxes_has_no_objects():
    found = look(replace(Pages()[0], boxes=[]))
    assert not found["fields.regions.there"].any()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (lambda box: replace(box, text=" "), "no-words"),
        (lambda box: replace(box, xyxy=(0.1, 0.1, 0.9, 1.0)), "box-units"),
        (lambda box: replace(box, xyxy=tuple(10 * side + 90 for side in box.xyxy)), "box-units"),
    ],
)
def test_boxes_that_do_not_fit_their_page(changed, reason):
    sample = Pages()[0]
    with pytest.raises(BadSample) as caught:
        look(replace(sample, boxes=[changed(box) for box in sample.boxes]))
    assert caught.value.reason == reason


def test_a_page_that_shows_no_word_of_its_boxes():
    with pytest.raises(BadSample) as caught:
        look(replace(Pages()[0], images={"main": Blank()}))
    assert caught.value.reason == "blank-page"


def test_units_are_told_from_pages_that_have_boxes():
    boxes = [Box(xyxy=(3, 4, 50, 60), text="a"), Box(xyxy=(3, 4, 98, 60), text="b")]
    assert wrong_units(boxes, (96, 66)) == ""
    assert "up to 900, 700" in wrong_units([Box(xyxy=(10, 10, 900, 700), text="a")], (96, 66))
    source = Pages(3)
    check_units(source)
    source.world.boxes = lambda facts: [Box(xyxy=(0, 0, 0.5, 0.25), text="a")]
    with pytest.raises(InputError, match="multiply them by width and height"):
        check_units(source)
