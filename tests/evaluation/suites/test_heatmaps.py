"""Contrast and overlap of heat maps: the published figures, and models whose heat is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.data.images import Preprocess
from diptych.data.sample import Box, Field, Sample
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.heatmaps import THRESHOLDS, contrast_to_noise, mean_iou
from diptych.testing import Toy

HALF = np.array([[True, False], [True, False]])


def test_contrast_of_the_published_values():
    heat = np.array([[0.8, 0.1], [0.6, 0.3]])
    found = contrast_to_noise(heat, HALF)
    assert found == pytest.approx(3.535534, abs=1e-6)
    assert contrast_to_noise(-2 * heat + 5, HALF) == pytest.approx(found)
    assert contrast_to_noise(-2 * heat + 5, HALF, signed=True) == pytest.approx(-found)
    assert contrast_to_noise(np.ones((2, 2)), HALF) == 0
    wider = np.pad(heat, ((0, 0), (1, 1)), constant_values=np.nan)
    assert contrast_to_noise(wider, np.pad(HALF, ((0, 0), (1, 1)))) == pytest.approx(found)


def test_overlap_of_the_published_values():
    heat = np.zeros((4, 4))
    heat[0, 0], heat[0, 1], heat[1, 0], heat[3, 3] = 0.6, 0.35, 0.15, 0.25
    inside = np.zeros((4, 4), bool)
    inside[:2, :2] = True
    ious = [mean_iou(heat, inside, (least,)) for least in THRESHOLDS]
    assert ious == pytest.approx([0.6, 0.4, 0.5, 0.25, 0.25])
    assert mean_iou(heat, inside) == pytest.approx(0.4)


class Drawing:
    """Half a grey image is white."""

    def decode(self, at_least=None):
        image = Image.new("RGB", (16, 8), (90, 90, 90))
        image.paste((255, 255, 255), (8, 0, 16, 8))
        return image


class Boxed:
    """Two samples with the phrase "white", whose boxes are the right half, and one beyond the image."""

    name = "boxed"

    def __len__(self):
        return 3

    def __getitem__(self, index):
        halves = ((8, 0, 16, 4), (8, 4, 16, 8))
        boxes = [Box(xyxy=each, text="white", label=index % 2) for each in halves]
        if index == 2:
            boxes = [Box(xyxy=(40, 0, 50, 8), text="white")]
        return Sample(key=str(index), source="", images={"main": Drawing()}, boxes=boxes)

    def keys(self):
        return ["0", "1", "2"]

    def schema(self):
        return {
            "images.main": Field(kind="image"),
            "boxes": Field(kind="box", classes=("one", "other")),
        }


class Bright:
    """Heat is brightness."""

    name = "bright"
    preprocess = Preprocess(size=16, resize="squash", interpolation="bilinear")

    def heat(self, images, texts, *, batch_size=64):
        grey = images.float().mean(1) / 255
        pooled = torch.nn.functional.avg_pool2d(grey, 4)
        return pooled[:, None].expand(-1, len(texts), -1, -1)


def test_a_model_of_brightness_finds_what_is_white():
    found = evaluate(Bright(), Boxed(), ["heatmaps"], sigma=0.0)["heatmaps"]
    assert found["n"] == 2
    assert found["bad"] == {"no-box": 1}
    assert found["miou"] > 0.5
    assert set(found["by_class"]) == {"one", "other"}
    blurred = evaluate(Bright(), Boxed(), ["heatmaps"], sigma=1.5)["heatmaps"]
    assert 0 < blurred["cnr"] < found["cnr"]
    assert blurred["protocol"] != found["protocol"]


def test_toys_have_boxes_of_two_phrases():
    found = evaluate(Bright(), Toy(4, ["images.main", "boxes"]), ["heatmaps"])["heatmaps"]
    assert found["n"] == 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sigma": -1.0}, "0 or more"),
        ({"interpolation": "cubic"}, "unknown interpolation"),
        ({"thresholds": ()}, "no threshold"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        evaluate(Bright(), Boxed(), ["heatmaps"], **settings)
