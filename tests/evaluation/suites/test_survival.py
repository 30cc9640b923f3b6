"""The suite survival: the concordance by loops, its invariances, and what is left out."""

from dataclasses import replace

import numpy as np
import pytest
from tests.evaluation.helpers import WIDTH, Fake, Rows, row

from diptych.data.sample import Field
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites import survival as suite
from diptych.evaluation.suites.survival import c_index


def by_loops(risks, times, events):
    right = pairs = 0.0
    for i in range(len(risks)):
        for j in range(len(risks)):
            earlier = times[i] < times[j] or (times[i] == times[j] and not events[j])
            if not events[i] or not earlier:
                continue
            pairs += 1
            right += 1.0 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0.0
    return right / pairs, pairs


@pytest.mark.parametrize("tile", [3, 1024])
def test_concordance_is_that_of_all_pairs(tile, monkeypatch):
    monkeypatch.setattr(suite, "_TILE", tile)
    rng = np.random.default_rng(0)
    for _ in range(5):
        risks, times = rng.integers(0, 5, (2, 30)).astype(float)
        events = rng.integers(0, 2, 30)
        assert c_index(risks, times, events) == pytest.approx(by_loops(risks, times, events))


def test_concordance_knows_only_the_order_of_risks():
    rng = np.random.default_rng(1)
    risks, times = rng.normal(size=(2, 40))
    events = rng.integers(0, 2, 40)
    value, _ = c_index(risks, times, events)
    assert c_index(np.exp(3 * risks + 1), times, events)[0] == value
    assert c_index(-risks, times, events)[0] == pytest.approx(1 - value)
    assert c_index(-times, times, events)[0] == 1
    assert c_index(np.zeros(40), times, events)[0] == 0.5


def test_pairs_are_of_an_event_and_a_later_time():
    assert (
        c_index(np.array([2.0, 1.0, 0.0]), np.array([1.0, 2.0, 3.0]), np.array([1, 0, 1]))[1] == 2
    )
    with pytest.raises(InputError, match="no event"):
        c_index(np.zeros(3), np.arange(3.0), np.zeros(3))


class Risky(Fake):
    """A model that predicts the number of a dot as its risk."""

    name = "risky"
    number = "risk"

    def predict(self, images, *, batch_size):
        return {self.number: self.numbers(images).float()}


@pytest.fixture
def model():
    return Risky(np.eye(WIDTH))


def rows(times, events):
    fields = {"labels.time": Field(kind="float"), "labels.event": Field(kind="int")}
    samples = [
        replace(row(str(at), at), labels={"time": time, "event": event})
        for at, (time, event) in enumerate(zip(times, events, strict=True))
    ]
    return Rows(samples, ["one"], fields)


def test_a_suite_of_a_model_that_predicts_risks(model):
    source = rows([5.0, float("nan"), 2.0, 3.0, 1.0], [1, 1, 1, -1, 0])
    found = evaluate(model, source, ["survival"])["survival"]
    assert found["c_index"] == 1.0  # 2 with an event at 2.0, 0 later
    assert (found["n"], found["events"], found["pairs"]) == (3, 2, 1)
    assert found["bad"] == {"no-label": 2}
    other = evaluate(model, source, ["survival"], time="time", event="event")["survival"]
    assert other["protocol"] == found["protocol"]


def test_what_does_not_fit_is_refused(model):
    source = rows([1.0, 2.0], [1, 1])
    with pytest.raises(InputError, match="label of source"):
        evaluate(model, source, ["survival"], time="tiem")
    with pytest.raises(
        InputError, match="predict, which Fake has not; train one with `diptych fit MODEL"
    ):
        evaluate(Fake(np.eye(WIDTH)), source, ["survival"])
    model.number = "weight"
    with pytest.raises(InputError, match="predicts weight"):
        evaluate(model, source, ["survival"])
