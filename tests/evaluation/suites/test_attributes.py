"""Attributes: who sees colours finds the regions that have them, of regions with several names."""

import numpy as np
import pytest
from tests.evaluation.helpers import Rows
from tests.evaluation.suites.helpers import COLOURS
from tests.evaluation.suites.regions_helpers import HOW, Painter, quarters

from diptych.data.sample import Box, Field
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.attributes import measured

NAMES = ["red", "green", "blue"]


def test_who_sees_colours_finds_all_regions_that_have_one():
    source = quarters("red", "green", "blue", "blue")
    found = evaluate(Painter(), source, ["attributes"], names=NAMES, **HOW)["attributes"]
    assert found["t2r_r_precision"] == found["t2r_map"] == found["r2t_r_precision"] == 1.0
    assert found["t2r_p1"] == 1.0
    assert found["t2r_p5"] == pytest.approx((1 + 1 + 2) / 4 / 3), "of four regions"
    assert found["chance_t2r_r_precision"] == pytest.approx(1 / 3)
    assert found["chance_r2t_r_precision"] == pytest.approx(1 / 3)
    assert (found["n"], found["images"], found["attributes"]) == (4, 1, 3)


def test_who_takes_red_for_green_finds_blue_alone():
    swapped = COLOURS | {"red": COLOURS["green"], "green": COLOURS["red"]}
    source = quarters("red", "green", "blue", "blue")
    found = evaluate(Painter(swapped), source, ["attributes"], names=NAMES, **HOW)["attributes"]
    assert found["t2r_r_precision"] == pytest.approx(1 / 3)
    assert found["r2t_r_precision"] == 0.5
    assert found["by_attribute"]["blue"]["r_precision"] == 1.0
    assert found["by_attribute"]["red"]["p1"] == 0.0


def test_a_box_has_what_its_text_mentions_and_its_class():
    source = quarters("red", "green", "blue", "blue")
    [sample] = source.samples
    boxes = [Box(xyxy=box.xyxy, text="Blue, large", label=0) for box in sample.boxes]
    source = Rows(
        [type(sample)(key="a", source="rows", images=sample.images, boxes=boxes)],
        fields={"boxes": Field(kind="box", classes=("red", "blue", "green"))},
    )
    found = evaluate(Painter(), source, ["attributes"], **HOW)["attributes"]
    assert found["attributes"] == 2
    assert set(found["by_attribute"]) == {"red", "blue"}


def test_measures_equal_slow_ones():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (12, 5)).astype(float)  # with ties
    relevant = rng.random((12, 5)) < 0.3
    relevant[:, 4] = False
    found = measured(scores, relevant, list("abcde"))
    means = {"t2r_r_precision": [], "t2r_p1": [], "t2r_p5": []}
    for column in range(4):
        rows = sorted(range(12), key=lambda row: (-scores[row, column], relevant[row, column]))
        own = relevant[:, column].sum()
        for name, count in (("t2r_r_precision", own), ("t2r_p1", 1), ("t2r_p5", 5)):
            means[name].append(sum(relevant[row, column] for row in rows[:count]) / count)
    for name, values in means.items():
        assert found[name] == pytest.approx(np.mean(values))
    shares = []
    for row in range(12):
        own = relevant[row].sum()
        order = sorted(range(5), key=lambda at: (-scores[row, at], relevant[row, at]))
        if own:
            shares.append(sum(relevant[row, at] for at in order[:own]) / own)
    assert found["r2t_r_precision"] == pytest.approx(np.mean(shares))


def test_sources_without_boxes_or_names_are_refused():
    source = quarters("red", "green", "blue", "blue")
    with pytest.raises(InputError, match="have no class names; name the attributes with --names"):
        evaluate(Painter(), source, ["attributes"], **HOW)
    with pytest.raises(InputError, match="no box of 'rows' mentions an attribute, such as 'pink'"):
        evaluate(
            Painter(COLOURS | {"pink": COLOURS["red"]}),
            source,
            ["attributes"],
            names=["pink"],
            **HOW,
        )
    source.fields = {"masks.class": Field(kind="mask", classes=("a",))}
    with pytest.raises(InputError, match="boxes"):
        evaluate(Painter(), source, ["attributes"], names=NAMES, **HOW)
