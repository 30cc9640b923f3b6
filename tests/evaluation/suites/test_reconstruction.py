"""Reconstruction: a model that draws what its text says, on images of one colour in a white ground."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Plane, Rows
from tests.evaluation.suites.helpers import COLOURS, Seer

from diptych.data.sample import Field, Sample, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate

FIELDS = {"texts.caption": Field(kind="text"), "masks.instance": Field(kind="mask")}


def sample(key, name, objects=(0,)):
    """The first of four cells has the colour; object 0 is its left half."""
    pixels, mask = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8), np.uint8)
    pixels[:4, :4] = COLOURS[name]
    mask[:4, :2] = 1
    return Sample(
        key=key,
        source="rows",
        images={"main": Plane(pixels)},
        texts=[Text(text=name, role="caption", attrs={"objects": objects})],
        masks={"instance": Plane(mask)},
    )


class Painter:
    """Masks a cell, and paints it in the colour that the text names."""

    name = "painter"
    preprocess = Seer().preprocess

    def __init__(self, cell=0):
        self.cell = cell

    def attentive_mask(self, images, texts, *, batch_size=64):
        return (torch.arange(4) == self.cell).view(1, 2, 2).repeat(len(images), 1, 1)

    def reconstruct(self, images, texts, *, hidden, batch_size=64):
        hidden = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
        colours = torch.tensor([COLOURS[text] for text in texts])[:, :, None, None]
        return torch.where(hidden, colours, images) / 255


ROWS = Rows([sample("a", "red"), sample("b", "green", ())], fields=FIELDS)


def test_the_own_text_draws_the_own_colour():
    found = evaluate(Painter(), ROWS, ["reconstruction"])["reconstruction"]
    red, green = (np.array(COLOURS[name]) / 255 for name in ("red", "green"))
    assert found["error"] == pytest.approx(0, abs=1e-12)
    assert found["other_error"] == pytest.approx(((red - green) ** 2).mean(), rel=1e-5)
    flat = np.mean([((each - each.mean()) ** 2).mean() for each in (red, green)])
    assert found["chance_error"] == pytest.approx(flat, rel=1e-5)
    # of the one text that says what it describes: 8 of 16 masked pixels, of 64
    assert (found["iou"], found["n"]) == (0.5, 2)
    assert found["chance_iou"] == pytest.approx(0.125 * 0.25 / (0.125 + 0.25 - 0.125 * 0.25))


def test_a_mask_elsewhere_overlaps_nothing_and_none_is_refused():
    assert evaluate(Painter(3), ROWS, ["reconstruction"])["reconstruction"]["iou"] == 0
    with pytest.raises(InputError, match="masks no patch"):
        evaluate(Painter(9), ROWS, ["reconstruction"])
    with pytest.raises(InputError, match="reconstruction needs a model with reconstruct"):
        evaluate(Seer(), ROWS, ["reconstruction"])
