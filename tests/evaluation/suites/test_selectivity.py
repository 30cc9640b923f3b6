"""Selectivity: positions on an object, and a model whose heat is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.factories import make_method

from diptych.data.images import Preprocess
from diptych.data.sample import Box, Field, Sample
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.selectivity import on_box
from diptych.methods.store import to_model
from diptych.testing import Toy


class Drawing:
    def decode(self, at_least=None):
        return Image.new("RGB", (16, 8), (90, 90, 90))


class Boxed:
    """A cat on the left and a red dog on the right; two cats; nothing."""

    name = "boxed"

    def __init__(self, classes=()):
        self.classes = classes

    def __len__(self):
        return 3

    def __getitem__(self, index):
        left = Box(xyxy=(0, 0, 8, 8), text="cat", label=0)
        right = Box(xyxy=(8, 0, 16, 8), text="red dog", label=1)
        boxes = [[left, right], [left, replace(right, text="cat", label=0)], []][index]
        return Sample(key=str(index), source="", images={"main": Drawing()}, boxes=boxes)

    def keys(self):
        return ["0", "1", "2"]

    def schema(self):
        return {
            "images.main": Field(kind="image"),
            "boxes": Field(kind="box", classes=self.classes),
        }


class Known:
    """Each word is hot in one column of 2 x 4 positions: cat in the first, red in the last, dog in all."""

    name = "known"
    precision = "float32"
    preprocess = Preprocess(size=8)

    def heat(self, images, texts, *, batch_size=64):
        assert images.shape[-2:] == (8, 8)
        found = torch.zeros(len(images), len(texts), 2, 4)
        for k, text in enumerate(texts):
            if text == "dog":
                found[:, k] = 0.5
            else:
                found[:, k, :, {"cat": 0, "red": 3}[text]] = 1.0
        return found


def test_own_words_against_those_of_other_objects():
    found = evaluate(Known(), Boxed(), ["selectivity"])["selectivity"]
    # of the cat: own 1/2, others (0 + 1/2) / 2; of the dog: own (1/2 + 1/2) / 2, other 0
    assert found["own"] == pytest.approx(0.5)
    assert found["other"] == pytest.approx(0.125)
    assert found["selectivity"] == pytest.approx(0.375)
    assert found["n"] == 2
    assert found["bad"] == {"one-name": 2}
    named = evaluate(Known(), Boxed(("cat", "dog")), ["selectivity"])["selectivity"]
    assert named["selectivity"] == pytest.approx(0.5 - 0.25)
    assert named["protocol"] != found["protocol"]


def test_positions_are_those_whose_centre_is_in_the_box():
    box = np.array([0.25, 0.0, 0.75, 0.5])
    assert on_box(box, (2, 4)).astype(int).tolist() == [[0, 1, 1, 0], [0, 0, 0, 0]]
    assert on_box(np.array([0.9, 0.9, 1.0, 1.0]), (2, 2)).astype(int).tolist() == [[0, 0], [0, 1]]
    assert on_box(np.array([1.0, 1.0, 1.0, 1.0]), (2, 2)).sum() == 1


def test_models_that_read_images_before_words_and_dual_encoders_have_heat():
    method = make_method("cg_vlm", lm="text:width=32:depth=1:heads=2")
    model = method.model.to_model(method.make.tokenizer, method.model.image.preprocess, "mine")
    clip = make_method("clip")
    preprocess = clip.model.image.preprocess.to_dict()
    dual = to_model(clip.model, clip.make.tokenizer, preprocess, name="mine")
    for each in (model, dual):
        found = evaluate(each, Boxed(), ["selectivity"])["selectivity"]
        assert found["n"] == 2
        assert -2 < found["selectivity"] < 2


def test_bad_input():
    with pytest.raises(InputError, match="selectivity needs boxes"):
        evaluate(Known(), Toy(4), ["selectivity"])
    with pytest.raises(InputError, match="2 one-name"):
        evaluate(Known(), Wrapped(Boxed(), range(1, 3)), ["selectivity"])
