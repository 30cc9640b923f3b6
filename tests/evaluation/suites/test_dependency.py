"""Visual dependency: gains against a table of right answers, and their course over sources."""

import numpy as np
import pytest
from tests.evaluation.helpers import Fake, Rows, vectors
from tests.evaluation.suites.answers_helpers import FIELDS, a, asked, q
from tests.evaluation.suites.vision_helpers import Table

from diptych.data.sources import Concat
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.dependency import correlated


def source(name="rows", first=0, count=4):
    rows = Rows(
        [
            asked(f"{name}{n}", n, q("which?", "red", "blue"), a("red"))
            for n in range(first, first + count)
        ],
        fields=FIELDS,
    )
    rows.name = name
    return rows


def model(seen, blind="blue", identity="table"):
    """Answers red about these images, and `blind` without one."""
    told = {(n, "which?"): "red" for n in seen} | {(None, "which?"): blind}
    return Table(told, identity=identity)


def test_gains_are_those_of_the_table():
    result = evaluate(model([0, 1, 2]), source(), ["dependency"], base=model([0]))
    found = result["dependency"]
    assert found["n"] == 4
    assert found["dependency"] == 0.25
    assert found["gain"] == 0.5
    assert found["blind_gain"] == 0.0
    assert found["needed"] == 0.5
    assert "guessed" not in found
    assert "by_source" not in found
    found = evaluate(
        model([0], blind="blue"), source(), ["dependency"], base=model([0, 1], blind="red")
    )["dependency"]
    assert found["dependency"] == -0.5
    assert (found["gain"], found["blind_gain"], found["guessed"]) == (-0.25, -1.0, -0.25)


def test_sources_are_measured_by_themselves_and_gains_correlated():
    parts = [source("a", 0), source("b", 4), source("c", 8)]
    base = model([0, 4, 5, 8, 9, 10])
    tuned = model([0, 4, 5, 6, 8, 9, 10, 11])
    found = evaluate(tuned, Concat(parts), ["dependency"], base=base)["dependency"]
    assert list(found["by_source"]) == ["a", "b", "c"]
    assert [each["dependency"] for each in found["by_source"].values()] == [0.25, 0.5, 0.75]
    assert [each["gain"] for each in found["by_source"].values()] == [0.0, 0.25, 0.25]
    assert found["gain"] == pytest.approx(2 / 12)
    expected = np.corrcoef([1, 2, 3], [0, 1, 1])[0, 1]
    assert found["correlation"] == pytest.approx(expected)
    assert correlated({"a": {"dependency": 0, "gain": 1}, "b": {"dependency": 1, "gain": 2}}) == {}


def test_by_log_prob_choices_are_scored_with_images_and_without():
    scores = {(0, "red"): -1.0, (1, "blue"): -1.0, (None, "blue"): -1.0}
    found = evaluate(
        Table(scores=scores), source(count=2), ["dependency"], base=Table(), by="log_prob"
    )["dependency"]
    assert (found["gain"], found["dependency"], found["blind_gain"]) == (0.5, 0.0, 0.0)


def test_answers_may_be_asked_without_images():
    samples = [
        asked(str(n), n, q("which?", "red", "blue"), a(answer))
        for n, answer in enumerate(("red", "red", "blue"))
    ]
    rows = Rows(samples, fields=FIELDS)
    found = evaluate(model([0, 1], blind="blue"), rows, ["answers"], blind=True)["answers"]
    assert found["exact"] == pytest.approx(2 / 3)
    assert found["blind_exact"] == pytest.approx(1 / 3)
    assert found["dependency"] == pytest.approx(1 / 3)
    plain = evaluate(model([0, 1]), rows, ["answers"])["answers"]
    assert "dependency" not in plain
    assert plain["protocol"] != found["protocol"]
    table = Table(scores={(0, "red"): -1.0, (None, "red"): -1.0})
    found = evaluate(table, rows, ["answers"], by="log_prob", blind=True)["answers"]
    assert (found["chosen"], found["blind_chosen"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_bad_input():
    with pytest.raises(InputError, match="name the one before the training with --base"):
        evaluate(Table(), source(), ["dependency"])
    with pytest.raises(InputError, match="reads an image with every question"):
        evaluate(Fake(vectors(0)), source(), ["answers"], blind=True)
    with pytest.raises(InputError, match="leave out --blind"):
        evaluate(Table(), source(), ["answers"], blind=True, by="embed")
