"""Regions: a model that sees colours names all boxes and areas, one that swaps two names none of
them."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Plane, Rows
from tests.evaluation.suites.helpers import COLOURS, Seer

from diptych.data.sample import Box, Field, Sample
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.models.regions import RegionVectors

NAMES = ("background", "red", "green", "blue")
QUARTERS = ((0, 0, 4, 4), (4, 0, 8, 4), (0, 4, 4, 8), (4, 4, 8, 8))
HOW = {"templates": ("it is {}",)}


class Painter(Seer):
    """Embeds a region as its mean colour."""

    def embed_regions(self, images, boxes=None, *, masks=None, route=None, size=None, batch_size):
        self.asked = (route, size)
        found = []
        for at, image in enumerate(images.float()):
            own = masks[at] if boxes is None else [self.inside(image, box) for box in boxes[at]]
            found.append(torch.stack([image[:, torch.as_tensor(m)].mean(1) for m in own]))
        vectors = torch.nn.functional.normalize(torch.stack(found), dim=-1)
        return RegionVectors(vectors, torch.zeros(1), torch.ones(vectors.shape[:2]).bool())

    @staticmethod
    def inside(image, box):
        x0, y0, x1, y1 = (round(float(side) * image.shape[1]) for side in box)
        mask = np.zeros(image.shape[1:], bool)
        mask[y0:y1, x0:x1] = True
        return mask


def quarters(*cells):
    """One image of four quarters, with a box and an area of the mask for each."""
    pixels, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    boxes = []
    for name, (x0, y0, x1, y1) in zip(cells, QUARTERS, strict=True):
        pixels[y0:y1, x0:x1] = COLOURS[name]
        mask[y0:y1, x0:x1] = NAMES.index(name)
        boxes.append(Box(xyxy=(x0, y0, x1, y1), text=name))
    image, masks = {"main": Plane(pixels)}, {"class": Plane(mask)}
    sample = Sample(key="a", source="rows", images=image, masks=masks, boxes=boxes)
    fields = {"masks.class": Field(kind="mask", classes=NAMES), "boxes": Field(kind="box")}
    return Rows([sample], fields=fields)


def test_who_sees_colours_names_every_box():
    found = evaluate(Painter(), quarters("red", "green", "blue", "blue"), ["regions"], **HOW)
    found = found["regions"]
    assert (found["top1"], found["mean_top1"], found["top5"]) == (1.0, 1.0, 1.0)
    assert (found["n"], found["images"], found["classes"], found["classes_seen"]) == (4, 1, 3, 3)
    assert found["chance_top1"] == found["chance_mean_top1"] == pytest.approx(1 / 3)
    assert found["chance_top5"] == 1.0


def test_who_takes_red_for_green_names_blue_alone():
    swapped = COLOURS | {"red": COLOURS["green"], "green": COLOURS["red"]}
    source = quarters("red", "green", "blue", "blue")
    found = evaluate(Painter(swapped), source, ["regions"], **HOW)["regions"]
    assert found["top1"] == 0.5
    assert found["mean_top1"] == pytest.approx(1 / 3)
    assert found["by_class"]["red"] == {"top1": 0.0}
    assert found["by_class"]["blue"] == {"top1": 1.0}


def test_the_areas_of_a_mask_are_regions_too():
    source = quarters("red", "green", "blue", "blue")
    found = evaluate(Painter(), source, ["regions"], mask="class", **HOW)["regions"]
    assert (found["n"], found["top1"], found["field"]) == (3, 1.0, "class")  # blue is one area


def test_base_and_novel_classes_have_their_own_accuracies():
    swapped = COLOURS | {"red": COLOURS["green"], "green": COLOURS["red"]}
    source = quarters("red", "green", "blue", "blue")
    found = evaluate(Painter(swapped), source, ["regions"], novel=["blue"], **HOW)["regions"]
    assert (found["base_top1"], found["novel_top1"], found["harmonic"]) == (0.0, 1.0, 0.0)


def test_size_and_route_reach_the_model_and_the_protocol():
    model = Painter()
    source = quarters("red", "green", "blue", "blue")
    plain = evaluate(model, source, ["regions"], **HOW)["regions"]
    assert model.asked == (None, None)
    other = evaluate(model, source, ["regions"], size=16, route="tokens", **HOW)["regions"]
    assert model.asked == ("tokens", 16)
    assert other["options"] == ["route=tokens", "size=16"]
    assert other["protocol"] != plain["protocol"]


def test_sources_without_regions_are_refused():
    bare = Rows([], fields={})
    with pytest.raises(InputError, match="is empty"):
        evaluate(Painter(), bare, ["regions"])
    no_boxes = quarters("red", "green", "blue", "blue")
    no_boxes.fields = {"masks.class": Field(kind="mask", classes=NAMES)}
    with pytest.raises(InputError, match="has no boxes; give one that has, or name a mask"):
        evaluate(Painter(), no_boxes, ["regions"])
