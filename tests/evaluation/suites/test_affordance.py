"""Affordance: the measures of maps, a model that knows the place, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diptych.data.images import Preprocess
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.affordance import EPSILON, fit

TOOLS = "tools:size=32:count=6:actor=false"


def test_anchors():
    truth = np.array([[0.0, 1], [2, 1]])
    found = fit(np.array([[0.0, 2], [2, 0]]), truth)
    assert found == pytest.approx((6.38789, 0.75, 1 / 3), abs=1e-5)
    assert fit(truth, truth).kld == pytest.approx(0, abs=1e-11)
    assert fit(truth, truth).sim == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.int64, (2, 3, 4), elements=st.integers(0, 50)), st.integers(1, 5), st.integers(0, 9)
)
def test_as_loops_over_pixels_and_the_same_for_other_scales(maps, factor, shift):
    heat, truth = maps.astype(float)
    truth[0, 0] = truth.max() + 1
    found = fit(heat, truth)
    g = (truth - truth.min()) / (truth.max() - truth.min())
    p = np.zeros_like(heat)
    if heat.max() > heat.min():
        p = (heat - heat.min()) / (heat.max() - heat.min())
        p = p / p.sum()
    places = list(np.ndindex(g.shape))
    shares = {at: g[at] / sum(g[other] for other in places) for at in places}
    kld = sum(shares[at] * np.log(shares[at] / (p[at] + EPSILON) + EPSILON) for at in places)
    assert found.kld == pytest.approx(kld, rel=1e-9, abs=1e-9)
    assert found.sim == pytest.approx(sum(min(shares[at], p[at]) for at in places))
    again = fit(factor * heat + shift, factor * truth + shift)
    assert again == pytest.approx(found, rel=1e-6, abs=1e-6)


class Knows:
    """Shows the red channel of what it reads."""

    name = "knows"
    preprocess = Preprocess(size=32)

    def __init__(self, source):
        self.heats = iter(
            [np.asarray(sample.masks["heat"].decode(), np.float32) for sample in source]
        )

    def heat(self, images, texts):
        assert len(images) == len(texts) == 1
        return torch.from_numpy(next(self.heats))[None, None]


def test_a_model_that_knows_the_place_fits_it():
    source = open_source(TOOLS)
    found = evaluate(Knows(source), source, ["affordance"])["affordance"]
    assert found["n"] == 6
    assert found["sim"] == pytest.approx(1, abs=1e-6)
    assert found["kld"] == pytest.approx(0, abs=1e-6)
    assert found["nss"] > 2
    assert found["field"] == "heat:verb"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mask": "hart"}, "unknown mask"),
        ({"role": "verbs"}, "did you mean 'verb'"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"interpolation": "cubic"}, "interpolation"),
    ],
)
def test_bad_settings_are_refused(options, said):
    source = open_source(TOOLS)
    with pytest.raises(InputError, match=said):
        evaluate(Knows(source), source, ["affordance"], **options)


def test_masks_without_a_place_are_counted():
    source = open_source("scenes:count=2:texts=caption")
    with pytest.raises(InputError, match="has 3 masks"):
        evaluate(Knows([]), source, ["affordance"])
