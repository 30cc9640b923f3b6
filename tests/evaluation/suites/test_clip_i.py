"""Likeness: a painter that draws the right images, and one that draws those of another class."""

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.helpers import Fake, Rows, row

from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.clip_i import clip_i

VECTORS = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1.0], [0, 0.6, 0.8]])
ROWS = Rows(
    [row("a", 0, label=0), row("b", 1, label=0), row("c", 2, label=1), row("d", 3, label=1)]
)


class Painter(Fake):
    """Draws a dot for each class by its name."""

    name, precision = "painter", "float32"

    def __init__(self, numbers):
        super().__init__(VECTORS)
        self.drawn, self.asked = numbers, []

    def set_classes(self, names):
        self.classes = tuple(names)

    def embed_images(self, images, *, batch_size):
        if isinstance(images, list):
            return self.vectors[[image.getpixel((0, 0))[0] for image in images]]
        return super().embed_images(images, batch_size=batch_size)

    def draw(self, name, count, *, guidance, seed):
        self.asked.append((name, count, guidance, seed))
        return [Image.new("RGB", (1, 1), (self.drawn[name], 0, 0))] * count


def test_drawings_are_held_against_the_mean_of_their_class():
    model = Painter({"c0": 0, "c1": 2})
    found = evaluate(model, ROWS, ["clip_i"], draws=3)["clip_i"]
    first = VECTORS[:2].mean(0) / np.linalg.norm(VECTORS[:2].mean(0))
    second = VECTORS[2:].mean(0) / np.linalg.norm(VECTORS[2:].mean(0))
    assert found["clip_i"] == pytest.approx((first[0] + second[2]) / 2)
    assert found["chance_clip_i"] == pytest.approx(first @ second)
    assert (found["top1"], found["chance_top1"], found["n"], found["classes"]) == (1.0, 0.5, 6, 2)
    assert model.asked == [("c0", 3, 3.0, 0), ("c1", 3, 3.0, 0)]


def test_who_draws_the_other_class_is_at_zero():
    assert clip_i(Painter({"c0": 2, "c1": 0}), ROWS)["top1"] == 0


def test_another_model_may_judge():
    judge = Painter({})
    judge.vectors = judge.vectors.flip(1)
    reported = clip_i(Painter({"c0": 0, "c1": 2}), ROWS, judge=judge)
    own = clip_i(Painter({"c0": 0, "c1": 2}), ROWS)
    assert reported["clip_i"] == pytest.approx(own["clip_i"])
    assert reported["protocol"] == own["protocol"]
    judge.name = "another"
    assert clip_i(Painter({"c0": 0, "c1": 2}), ROWS, judge=judge)["protocol"] != own["protocol"]


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(InputError, match="two or more apart"):
        clip_i(Painter({"c0": 0}), Rows(ROWS.samples[:2]))
    with pytest.raises(InputError, match="0 drawings"):
        evaluate(Painter({}), ROWS, ["clip_i"], draws=0)
    with pytest.raises(InputError, match="needs a model with set_classes"):
        evaluate(Fake(VECTORS), ROWS, ["clip_i"])
