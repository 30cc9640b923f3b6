"""Correspondence: models that know where they look, or only which cell it is, and what has no crops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.helpers import Rows

from diptych.data.images import Preprocess
from diptych.data.sample import Sample
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites import correspondence as suite
from diptych.evaluation.suites.correspondence import correspondence
from diptych.towers.encoded import Encoded


class Drawn:
    """Red tells the column, green the row."""

    def __init__(self, mode="RGB"):
        self.mode = mode

    def decode(self, at_least=None):
        y, x = np.mgrid[0:64, 0:64] * 4
        return Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8)).convert(self.mode)


class Looks:
    """Features of 4 x 4 cells: the place in the image, as red and green tell it."""

    preprocess = Preprocess(size=32)

    def represent(self, images, *, batch_size, level=None):
        means = torch.nn.functional.adaptive_avg_pool2d(images[:, :2].float(), 4) / 255
        angles = means.flatten(2).mT * math.pi / 2
        tokens = torch.cat([angles.cos(), angles.sin()], 2)
        found = Encoded(
            tokens, tokens.mean(1), grid=(4, 4), levels=(tokens[:, :4].mT.unflatten(2, (2, 2)),)
        )
        return found if level is None else found.of_level(level)


class Counts(Looks):
    """Features that are the number of the cell."""

    def represent(self, images, *, batch_size):
        return Encoded(torch.eye(16).expand(len(images), 16, 16), images[:, :, 0, 0], grid=(4, 4))


def rows(count, mode="RGB"):
    return Rows(
        [Sample(key=f"{at}", source="r", images={"main": Drawn(mode)}) for at in range(count)]
    )


@pytest.fixture
def _uncoloured(monkeypatch):
    monkeypatch.setattr(suite, "AUGMENT", replace(suite.AUGMENT, colour=0.0, grey=0.0))


@pytest.mark.usefixtures("_uncoloured")
def test_features_of_the_place_find_it_and_those_of_the_cell_do_not():
    knows = correspondence(Looks(), rows(24), batch_size=7)
    counts = correspondence(Counts(), rows(24))
    assert knows["accuracy"] > 0.97
    assert knows["chance_accuracy"] < counts["accuracy"] < 0.7
    assert knows["n"] == counts["n"] < 24 * 32
    assert knows["chance_accuracy"] == counts["chance_accuracy"]
    # a position with a positive has between 1 and a few of 16
    assert 1 / 16 <= knows["chance_accuracy"] < 5 / 16
    other = correspondence(Looks(), rows(24), seeds=[1])
    assert (other["n"], other["protocol"]) != (knows["n"], knows["protocol"])
    assert correspondence(Looks(), rows(24), level=0)["protocol"] != knows["protocol"]


def test_what_has_no_crops_is_counted_or_refused():
    mixed = Rows([*rows(3).samples, *rows(2, "RGBA").samples, Sample(key="x", source="r")])
    found = evaluate(Looks(), mixed, ["correspondence"])["correspondence"]
    assert found["bad"] == {"transparent": 2, "no-image": 1}
    with pytest.raises(InputError, match="transparent"):
        correspondence(Looks(), rows(2, "RGBA"))

    class Pools(Looks):
        def represent(self, images, *, batch_size):
            return Encoded(images.flatten(2).mT.float(), images[:, :, 0, 0].float())

    with pytest.raises(InputError, match="need features on a grid"):
        correspondence(Pools(), rows(2))
