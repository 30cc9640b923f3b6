"""Detection: average precision against a slow reference, matching, and models that see everything
or nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Plane, Rows
from torchvision.ops import box_iou

from diptych.data.images import Preprocess
from diptych.data.sample import Box, Field, Sample
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites._average_precision import (
    Judged,
    average_precision,
    average_precisions,
    matched,
)
from diptych.inference.detect import find_in_images
from diptych.models.detection import Found

CLASSES = ("cat", "owl", "bat")
FIELDS = {"boxes": Field(kind="box", classes=CLASSES)}


def sample(key, *boxes, number=0):
    pixels = np.full((10, 20, 3), number, np.uint8)
    held = [Box(xyxy=xyxy, label=CLASSES.index(name)) for name, xyxy in boxes]
    return Sample(key=key, source="rows", images={"main": Plane(pixels)}, boxes=held)


ROWS = Rows(
    [
        sample("a", ("cat", (0, 0, 10, 10)), ("owl", (10, 0, 20, 5)), number=0),
        sample("b", ("cat", (5, 5, 15, 10)), number=1),
    ],
    fields=FIELDS,
)


class Seer:
    """Answers by the number that an image is full of."""

    name, identity = "seer", "seer"
    preprocess = Preprocess(size=4, resize="squash")

    def __init__(self, answers):
        self.answers, self.classes = answers, ()

    def set_classes(self, names):
        self.classes = tuple(names)

    def detect(self, images, *, batch_size, **how):
        return [self._found(self.answers[int(image[0, 0, 0])]) for image in images]

    def _found(self, rows):
        boxes = torch.tensor([box for _, box, _ in rows]).view(-1, 4).float()
        names = torch.tensor([self.classes.index(name) for name, _, _ in rows], dtype=torch.int64)
        return Found(boxes, names, torch.tensor([score for _, _, score in rows]))


RIGHT = {
    0: [("cat", (0, 0, 0.5, 1), 0.9), ("owl", (0.5, 0, 1, 0.5), 0.8)],
    1: [("cat", (0.25, 0.5, 0.75, 1), 0.7)],
}


def test_who_finds_all_has_a_precision_of_one_and_classes_without_boxes_do_not_count():
    found = evaluate(Seer(RIGHT), ROWS, ["detection"])["detection"]
    assert found["ap50"] == found["recall50"] == 1
    assert (found["n"], found["boxes"], found["classes"]) == (2, 3, 3)
    assert set(found["by_class"]) == {"cat", "owl"}


def test_who_finds_nothing_has_none():
    found = evaluate(Seer({0: [], 1: []}), ROWS, ["detection"])["detection"]
    assert found["ap50"] == found["recall50"] == 0


def test_a_false_alarm_above_a_hit_halves_the_precision_there():
    answers = {0: [("owl", (0, 0, 0.1, 0.1), 0.95), *RIGHT[0]], 1: RIGHT[1]}
    found = evaluate(Seer(answers), ROWS, ["detection"])["detection"]
    assert found["by_class"]["owl"]["ap50"] == pytest.approx(0.5)
    assert found["by_class"]["cat"]["ap50"] == 1


def test_the_rule_of_detections_is_passed_on_and_is_of_the_protocol():
    class Told(Seer):
        def detect(self, images, *, batch_size, **how):
            self.how = how
            return super().detect(images, batch_size=batch_size)

    model = Told(RIGHT)
    plain = evaluate(model, ROWS, ["detection"])["detection"]
    assert model.how == {}
    found = evaluate(model, ROWS, ["detection"], score_threshold=0.0, max_boxes=300)["detection"]
    assert model.how == {"score_threshold": 0.0, "max_boxes": 300}
    assert found["protocol"] != plain["protocol"]
    with pytest.raises(InputError, match="nms_threshold is 2; it must be 0 to 1"):
        evaluate(model, ROWS, ["detection"], nms_threshold=2.0)
    with pytest.raises(InputError, match="at least one detection"):
        evaluate(model, ROWS, ["detection"], max_boxes=0)


def hits(boxes, scores, wanted):
    overlaps = box_iou(torch.tensor(boxes), torch.tensor(wanted)).numpy()
    [found] = matched(overlaps, np.array(scores))
    return found.tolist()


def test_a_box_is_found_once():
    whole = [0.0, 0, 1, 1]
    assert hits([whole] * 3, [0.2, 0.9, 0.5], [[0.0, 0, 1, 0.9]]) == [False, True, False]
    two = hits([whole, [0, 0, 1, 0.8]], [0.9, 0.8], [whole, [0, 0, 1, 0.7]])
    assert two == [True, True]
    assert hits([whole], [1.0], [[0.0, 0, 0.4, 1]]) == [False]


def by_loops(scores, hits, count):
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], hits[at]))
    points, right = [], 0
    for place, at in enumerate(order, 1):
        right += hits[at]
        points.append((right / count, right / place))
    best = [
        max((p for r, p in points if r >= recall / 100 - 1e-9), default=0.0)
        for recall in range(101)
    ]
    return sum(best) / 101


@pytest.mark.parametrize("seed", range(5))
def test_the_average_precision_is_cocos(seed):
    draws = np.random.default_rng(seed)
    scores, hits = draws.integers(0, 6, 30) / 6, draws.uniform(size=30) < 0.4
    count = int(hits.sum()) + 3
    assert average_precision(scores, hits, count) == pytest.approx(
        by_loops(scores, hits.tolist(), count)
    )
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0


def test_boxes_of_other_images_and_classes_are_no_hits():
    zero = torch.tensor([0])
    none = torch.zeros(0).long()
    images = [
        Judged(none, torch.zeros(0), torch.zeros(0, 1), zero),
        Judged(zero, torch.ones(1), torch.zeros(1, 0), none),
        Judged(zero + 1, torch.ones(1), torch.ones(1, 1), zero),
    ]
    found, recalls = average_precisions(images, (0.5,))
    assert {number: row.tolist() for number, row in found.items()} == {0: [0.0]}
    assert recalls.tolist() == [0.0]


def test_what_cannot_be_measured_is_told():
    class Crops(Seer):
        preprocess = Preprocess(size=4)

    with pytest.raises(InputError, match="resize=squash"):
        evaluate(Crops(RIGHT), ROWS, ["detection"])
    with pytest.raises(InputError, match="needs boxes"):
        evaluate(Seer(RIGHT), Rows(ROWS.samples), ["detection"])
    with pytest.raises(InputError, match="nothing to find"):
        evaluate(Seer({0: []}), Rows([sample("a")], fields=FIELDS), ["detection"])


def test_boxes_are_told_in_pixels():
    model = Seer(RIGHT)
    model.set_classes(CLASSES)
    found, bad = find_in_images(model, ROWS)
    assert [(each.image, each.name, each.box) for each in found] == [
        ("a", "cat", (0, 0, 10, 10)),
        ("a", "owl", (10, 0, 20, 5)),
        ("b", "cat", (5, 5, 15, 10)),
    ]
    assert not bad


class Masker(Seer):
    """Its masks fill the left half of each box, or all of it."""

    finds_masks = True
    share = 1.0

    def detect(self, images, *, batch_size, masks=False):
        assert masks
        return [
            replace(each, masks=self._masks(len(each.boxes)))
            for each in super().detect(images, batch_size=batch_size)
        ]

    def _masks(self, count):
        planes = torch.zeros(count, 28, 28)
        planes[:, :, : round(28 * self.share)] = 1.0
        return planes


def masked(one, share=1.0, width=20):
    """A sample whose objects fill a share of their boxes, from the left."""
    boxes = []
    for box in one.boxes:
        x0, y0, x1, y1 = box.xyxy
        plane = np.zeros((10, width), np.uint8)
        plane[y0:y1, x0 : round(x0 + share * (x1 - x0))] = 1
        boxes.append(replace(box, mask=Plane(plane)))
    return replace(one, boxes=boxes)


def with_masks(*samples):
    return Rows(list(samples), fields={**FIELDS, "boxes.mask": Field(kind="mask")})


def test_masks_are_judged_beside_boxes():
    source = with_masks(*(masked(each, 0.7) for each in ROWS.samples))
    found = evaluate(Masker(RIGHT), source, ["detection"])["detection"]
    assert (found["ap"], found["ap50"]) == (1, 1)
    assert found["mask_ap50"] == found["mask_recall50"] == 1
    assert found["mask_ap"] == pytest.approx(0.5)  # .7 is a hit at .5 … .7
    assert found["by_class"]["owl"]["mask_ap50"] == 1
    exact = Masker(RIGHT)
    exact.share = 0.7
    assert evaluate(exact, source, ["detection"])["detection"]["mask_ap"] == 1
    boxes_alone = evaluate(Seer(RIGHT), source, ["detection"])["detection"]
    assert not [name for name in boxes_alone if name.startswith("mask")]
    assert boxes_alone["protocol"] == found["protocol"]


def test_masks_of_another_size_than_the_image_are_bad_samples():
    first, second = ROWS.samples
    source = with_masks(masked(first), masked(second, width=30))
    found = evaluate(Masker(RIGHT), source, ["detection"])["detection"]
    assert (found["n"], found["bad"]) == (1, {"mask-size": 1})
    source = with_masks(masked(first), second)
    assert evaluate(Masker(RIGHT), source, ["detection"])["detection"]["bad"] == {"no-mask": 1}
