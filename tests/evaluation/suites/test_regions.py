"""Regions: a model that sees colours names all boxes and areas, one that swaps two names none of
them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from tests.evaluation.helpers import Plane, Rows
from tests.evaluation.suites.helpers import COLOURS
from tests.evaluation.suites.regions_helpers import HOW, NAMES, QUARTERS, Painter, quarters
from torch.nn.functional import normalize

from diptych.data.sample import Field
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites import regions


def test_who_sees_colours_names_every_box():
    found = evaluate(Painter(), quarters("red", "green", "blue", "blue"), ["regions"], **HOW)
    found = found["regions"]
    assert (found["top1"], found["mean_top1"], found["top5"], found["ap"]) == (1.0, 1.0, 1.0, 1.0)
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


def test_precision_is_that_of_scikit_learn_up_to_the_steps_of_recall(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    vectors = normalize(torch.randn(400, 8, generator=generator), dim=-1)
    texts = normalize(torch.randn(5, 8, generator=generator), dim=-1)
    labels = np.arange(400) % 4  # the fifth class has no region
    monkeypatch.setattr(regions, "TILE", 64)
    scores = (100 * vectors @ texts.T).softmax(1).numpy()
    wanted = [average_precision_score(labels == at, scores[:, at]) for at in range(4)]
    found = regions._precision(vectors, texts, labels)
    assert found == pytest.approx(
        np.mean(wanted), abs=0.02
    )  # 101 points of recall, and the best behind each
    assert found >= np.mean(wanted) - 0.005
    assert regions._precision(texts, texts, np.arange(5)) == 1.0


def test_the_areas_of_a_mask_are_regions_too():
    source = quarters("red", "green", "blue", "blue")
    found = evaluate(Painter(), source, ["regions"], mask="class", **HOW)["regions"]
    assert (found["n"], found["top1"], found["field"]) == (3, 1.0, "class")  # blue is one area


def test_masks_of_objects_are_regions_and_stuff_is_told_apart():
    [sample] = quarters("red", "green", "blue", "red")
    boxes = []
    for at, (box, (x0, y0, x1, y1)) in enumerate(zip(sample.boxes, QUARTERS, strict=True)):
        plane = np.zeros((8, 8), np.uint8)
        plane[y0:y1, x0:x1] = 1
        boxes.append(replace(box, xyxy=(0, 0, 8, 8), label=at % 3, mask=Plane(plane)))
    fields = {
        "boxes": Field(kind="box", classes=("red", "green", "blue"), stuff=("blue",)),
        "boxes.mask": Field(kind="mask"),
    }
    source = Rows([replace(sample, boxes=boxes)], fields=fields)
    found = evaluate(Painter(), source, ["regions"], mask="object", **HOW)["regions"]
    assert (found["n"], found["top1"]) == (4, 1.0)
    assert (found["thing_mean_top1"], found["stuff_top1"]) == (1.0, 1.0)
    boxes[2] = replace(boxes[2], label=1)  # what looks blue is called green: a thing that is missed
    boxes[3] = replace(boxes[3], label=2)  # what looks red is called blue
    source = Rows([replace(sample, boxes=boxes)], fields=fields)
    found = evaluate(Painter(), source, ["regions"], mask="object", **HOW)["regions"]
    assert (found["thing_top1"], found["thing_mean_top1"]) == (pytest.approx(2 / 3), 0.75)
    assert found["stuff_top1"] == found["stuff_mean_top1"] == 0
    with pytest.raises(InputError, match="have no masks of objects"):
        evaluate(
            Painter(), quarters("red", "green", "blue", "red"), ["regions"], mask="object", **HOW
        )


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
