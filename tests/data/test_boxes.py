"""Boxes by name and on a grid, and images that move with them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Plane, Rows

from diptych.data.boxes import attributes_of, object_mask, on_grid, shares, thing_of, things
from diptych.data.images import Preprocess
from diptych.data.matcher import Matcher
from diptych.data.sample import BadSample, Box, Field, Sample
from diptych.data.sources import open_source
from diptych.data.views import BoxView, NoiseView
from diptych.errors import InputError
from diptych.rng import generator


def by_loops(boxes, numbers, grid):
    h, w = grid
    rows = []
    for i in range(h):
        for j in range(w):
            x, y = (j + 0.5) / w, (i + 0.5) / h
            best, row = math.inf, [-1.0, 0, 0, 0, 0, 0]
            for (x0, y0, x1, y1), number in zip(boxes, numbers, strict=True):
                area = (x1 - x0) * (y1 - y0)
                if x0 < x < x1 and y0 < y < y1 and area < best:
                    left, top, right, low = x - x0, y - y0, x1 - x, y1 - y
                    best = area
                    central = min(left, right) / max(left, right) * min(top, low) / max(top, low)
                    row = [number, left, top, right, low, math.sqrt(central)]
            rows.append(row)
    return np.array(rows)


def test_cells_have_the_smallest_box_that_holds_their_centre():
    draws = np.random.default_rng(0)
    corner, size = draws.uniform(0, 0.6, (5, 2)), draws.uniform(0.1, 0.5, (5, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    numbers = np.array([3, 0, 1, 1, 2])
    np.testing.assert_allclose(
        on_grid(boxes, numbers, (4, 5)), by_loops(boxes, numbers, (4, 5)), atol=1e-5
    )
    assert (on_grid(np.zeros((0, 4)), np.zeros(0), (2, 2))[:, 0] == -1).all()


def test_names_are_those_of_classes_or_of_texts():
    classes = ("cat", "dog")
    assert thing_of(Box(xyxy=(0, 0, 1, 1), text="x", label=1), classes) == "dog"
    assert thing_of(Box(xyxy=(0, 0, 1, 1), text="x", label=-1), classes) == ""
    rows = [
        Sample(key=str(at), source="rows", boxes=[Box(xyxy=(0, 0, 1, 1), text=text)])
        for at, text in enumerate(["owl", " bat ", "owl", ""])
    ]
    assert things(Rows(rows, fields={"boxes": Field(kind="box")})) == ("bat", "owl")
    assert things(Rows(rows, fields={"boxes": Field(kind="box", classes=classes)})) == classes
    with pytest.raises(InputError, match="neither classes nor texts"):
        things(Rows(rows[3:], fields={"boxes": Field(kind="box")}))


def test_boxes_are_cut_to_the_image_and_those_outside_left_out():
    boxes = [
        Box(xyxy=(-10, 5, 20, 10), text="a"),
        Box(xyxy=(50, 0, 60, 5), text="out"),
        Box(xyxy=(0, 0, 4, 4)),
        Box(xyxy=(0, 0, 4, 4), text="b", image="page2"),
    ]
    found, names = shares(Sample(key="a", source="rows", boxes=boxes), (40, 20), ())
    assert names == ["a"]
    np.testing.assert_allclose(found, [[0, 0.25, 0.5, 0.5]])


def view(**how):
    return BoxView(preprocess=Preprocess(size=8, resize="squash"), grid=(2, 2), **how)


def sample(*boxes):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4] = 255
    return Sample(key="a", source="rows", images={"main": Plane(pixels)}, boxes=boxes)


def test_a_mirrored_image_takes_its_boxes_along():
    boxes = (Box(xyxy=(0, 0, 4, 4), text="owl"), Box(xyxy=(4, 0, 8, 4), text="foreign"))
    seen = set()
    for seed in range(20):
        found = view(names=("bat", "owl"), flip=True)(sample(*boxes), generator(seed, "x"), 0.5)
        white = bool(found["images.main"][0, 0, 0, 0] > 128)
        assert found["fields.regions"][:, 0].tolist() == (
            [1, -1, 1, -1] if white else [-1, 1, -1, 1]
        )
        assert found["fields.regions"][0 if white else 1, 1:].tolist() == pytest.approx(
            [0.25, 0.25, 0.25, 0.75, 3**-0.5]
        )
        seen.add(white)
    assert seen == {True, False}
    still = view(names=("bat", "owl"), flip=True)(sample(*boxes), generator(0, "x"), None)
    assert still["fields.regions"][:, 0].tolist() == [1, -1, 1, -1]


def test_a_image_without_boxes_is_ground_and_one_that_is_missing_is_damage():
    assert (view(names=("owl",))(sample(), generator(0), 0.5)["fields.regions"][:, 0] == -1).all()
    with pytest.raises(BadSample, match="no-image"):
        view(names=("owl",))(Sample(key="a", source="rows"), generator(0), 0.5)
    with pytest.raises(InputError, match="resize=squash"):
        BoxView(preprocess=Preprocess(size=8), grid=(2, 2), names=("owl",))


def test_boxes_of_scenes_lie_where_their_masks_are():
    source = open_source("scenes:number=2:count=5:seed=3")
    names = things(source)
    for one in source:
        boxes, held = shares(one, (64, 64), source.schema()["boxes"].classes)
        plane = np.asarray(one.masks["instance"].decode())
        for box, name, given in zip(boxes, held, one.boxes, strict=True):
            assert name == names[given.label]
            x0, y0, x1, y1 = (box * 64).astype(int)
            assert plane[y0:y1, x0:x1].any()


def test_noise_is_drawn_by_the_generator_alone():
    noise = NoiseView(shape=(3, 4, 4), steps=10, drop=0.5)
    one, other = noise(sample(), generator(1, 2), 0.0), noise(sample(), generator(1, 2), 0.9)
    assert torch.equal(one["fields.noise"], other["fields.noise"])
    assert one["fields.time"] == other["fields.time"]
    drawn = [noise(sample(), generator(seed, 2), 0.0) for seed in range(400)]
    every = torch.stack([each["fields.noise"] for each in drawn])
    assert every.mean().abs() < 0.03
    assert abs(float(every.std()) - 1) < 0.03
    assert {each["fields.time"] for each in drawn} == set(range(10))
    assert 0.4 < np.mean([each["fields.dropped"] for each in drawn]) < 0.6
    assert NoiseView(shape=(3, 4, 4))(sample(), generator(1, 2), 0.0).keys() == {"fields.noise"}


def test_a_box_has_the_names_that_its_text_mentions_and_its_class():
    image = {"main": Plane(np.zeros((10, 20, 3), np.uint8))}
    boxes = (
        Box(xyxy=(0, 0, 10, 10), text="a Red cup, small", label=1),
        Box(xyxy=(30, 0, 40, 10), text="red"),  # outside
        Box(xyxy=(0, 0, 5, 5)),
        Box(xyxy=(5, 0, 10, 5), text="reds", label=0),
    )
    sample = Sample(key="a", source="s", images=image, boxes=boxes)
    matcher = Matcher(["small", "red", "Cup", "plate"], plural=False)
    found = attributes_of(sample, (20, 10), ("plate", "cup"), matcher)
    assert found.astype(int).tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert len(found) == len(shares(sample, (20, 10), ("plate", "cup"), named=False)[0])
    assert attributes_of(replace(sample, boxes=()), (20, 10), (), matcher).shape == (0, 4)


def test_a_mask_has_the_size_of_its_image():
    plane = np.zeros((2, 3), np.uint8)
    plane[0, 1] = 7
    box = Box(xyxy=(0, 0, 1, 1), text="owl", mask=Plane(plane))
    assert object_mask(box, (3, 2)).tolist() == [[False, True, False], [False] * 3]
    with pytest.raises(BadSample, match="mask-size: the mask of 'owl' is 3 x 2, its image 2 x 3"):
        object_mask(box, (2, 3))
    with pytest.raises(BadSample, match="no-mask: the box of 'owl' has no mask"):
        object_mask(Box(xyxy=(0, 0, 1, 1), text="owl"), (3, 2))
