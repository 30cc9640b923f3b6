"""The suite indicators: a network that learns real values, whole groups, and the published figures."""

import numpy as np
import pytest

import diptych
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites._mlp_probe import mlp
from diptych.evaluation.suites.indicators import report
from diptych.testing import Toy


@pytest.fixture(scope="module")
def tiny():
    return diptych.load("tiny")


def test_anchors_of_the_errors():
    found = report(np.array([1.0, 2, 3, 4]), np.array([1.1, 1.9, 3.2, 3.6]))
    assert found["r2"] == pytest.approx(0.956)
    assert found["rmse"] == pytest.approx(0.234521, abs=1e-6)
    standard = report(
        (np.array([1.0, 2, 3, 4]) - 2.5) / 1.118034,
        (np.array([1.1, 1.9, 3.2, 3.6]) - 2.5) / 1.118034,
    )
    assert standard["r2"] == pytest.approx(0.956)
    assert standard["rmse"] == pytest.approx(0.209762, abs=1e-6)
    assert report(np.array([1.0, 2, 3]), np.full(3, 2.0))["r2"] == pytest.approx(0)
    assert report(np.array([0.0, 2]), np.array([1.0, 3]))["mape"] == pytest.approx(0.5)


def test_the_network_learns_what_no_line_does():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    y = 50 + 10 * x[:, 0] * x[:, 1]
    new = rng.normal(size=(100, 2)).astype(np.float32)
    found = mlp(x[:300], y[:300], x[300:], y[300:], lr=5e-3, epochs=60)
    assert report(50 + 10 * new[:, 0] * new[:, 1], found.predict(new))["r2"] > 0.8
    assert 1 <= found.epoch <= 60
    again = mlp(x[:300], y[:300], x[300:], y[300:], lr=5e-3, epochs=60)
    assert np.array_equal(found.predict(new), again.predict(new))


def test_units_of_a_target_do_not_matter():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    one = mlp(x, x[:, 0], x, x[:, 0], epochs=5).predict(x)
    other = mlp(x, 1000 * x[:, 0] - 7, x, 1000 * x[:, 0] - 7, epochs=5).predict(x)
    np.testing.assert_allclose(other, 1000 * one - 7, rtol=1e-3, atol=1)


def test_indicators_of_tiles_are_told_from_their_pixels(tiny):
    found = evaluate(
        tiny,
        open_source("tiles:count=256:light=0.0"),
        ["indicators"],
        labels=["carbon", "gdp"],
        group="block",
    )["indicators"]
    assert set(found["by_indicator"]) == {"carbon", "gdp"}
    assert found["n"] + found["n_train"] == 256
    assert found["n"] == 64  # a block of four
    for row in found["by_indicator"].values():
        assert {"r2", "rmse", "mae", "mape", "chance_r2", "chance_rmse", "n"} == set(row)
        assert row["chance_r2"] <= 0


def test_all_labels_with_real_values_are_predicted(tiny):
    found = evaluate(
        tiny, open_source("tiles:count=64:split=test"), ["indicators"], train="tiles:count=128"
    )["indicators"]
    assert set(found["by_indicator"]) == {"carbon", "population", "gdp"}
    assert (found["n"], found["n_train"]) == (64, 128)
    means = [row["r2"] for row in found["by_indicator"].values()]
    assert found["mean_r2"] == pytest.approx(np.mean(means))


def test_what_cannot_be_predicted(tiny):
    with pytest.raises(InputError, match="no label with real values"):
        evaluate(tiny, Toy(40, ("images.main", "labels.colour")), ["indicators"])
    with pytest.raises(InputError, match="unknown label of source 'tiles:count=40' 'co2'"):
        evaluate(tiny, open_source("tiles:count=40"), ["indicators"], labels=["co2"])
    with pytest.raises(InputError, match="unknown label of source 'tiles:count=40' 'blok'"):
        evaluate(tiny, open_source("tiles:count=40"), ["indicators"], group="blok")
    with pytest.raises(InputError, match="fewer than 10 samples have it"):
        evaluate(tiny, open_source("tiles:count=12"), ["indicators"])
