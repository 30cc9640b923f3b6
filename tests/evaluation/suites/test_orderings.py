"""Orderings of log-probabilities: a model with a table of them, and which responses are compared."""

from dataclasses import replace

import numpy as np
import pytest
from tests.evaluation.helpers import Fake, Rows, row, vectors
from tests.evaluation.suites.answers_helpers import FIELDS, a, asked, q
from tests.evaluation.suites.vision_helpers import Table

from diptych.data.sample import Field
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.orderings import report

ALL = {**FIELDS, "edits": Field(kind="edit")}


def pair(number, own="red", other="green", question="which?"):
    edit = asked(f"{number}/e", number + 1, q(question), a(other))
    return replace(asked(str(number), number, q(question), a(own)), edits=[edit])


def measured(model, *samples, **settings):
    return evaluate(model, Rows(samples, fields=ALL), ["orderings"], **settings)["orderings"]


def test_shares_are_those_of_the_table():
    # of image 0 both responses are in order; of image 2 the prior for red wins
    scores = {
        (0, "red"): -1.0, (1, "red"): -5.0, (None, "red"): -3.0,
        (0, "green"): -6.0, (1, "green"): -2.0, (None, "green"): -4.0,
        (2, "red"): -3.5, (3, "red"): -3.2,
        (2, "green"): -8.0, (3, "green"): -7.0,
    }  # fmt: skip
    found = measured(Table(scores=scores), pair(0), pair(2), pair(5, "red", "Red."))
    assert (found["n"], found["bad"]) == (2, {"no-pair": 1})
    assert found["attend"] == 0.5  # of image 0 both, of image 2 none
    assert found["reject"] == 1.0
    assert found["contrast"] == 0.75
    assert found["paired"] == 0.5
    assert found["prefer"] == 0.75
    assert (found["chance_attend"], found["chance_paired"]) == (0.5, 0.25)


def test_a_model_that_does_not_look_has_no_order():
    scores = {(n, "red"): -1.0 for n in (0, 1, None)} | {(n, "green"): -2.0 for n in (0, 1, None)}
    found = measured(Table(scores=scores), pair(0))
    assert (found["attend"], found["reject"], found["contrast"]) == (0.0, 0.0, 0.0)
    assert found["prefer"] == 0.5


def test_random_orders_are_chance():
    found = report(np.random.default_rng(0).normal(size=(20_000, 6)))
    for name in ("attend", "reject", "contrast", "prefer", "paired"):
        assert found[name] == pytest.approx(found[f"chance_{name}"], abs=0.02)


def test_responses_of_a_role_are_compared_without_a_question():
    sample = replace(row("0", 0, "red"), edits=[row("0/e", 1, "green"), row("0/f", 2, "RED")])
    scores = {(0, "red"): -1.0, (1, "green"): -1.0}
    found = measured(Table(scores=scores), sample, role="caption")
    assert (found["n"], found["contrast"], found["paired"]) == (1, 1.0, 1.0)


def test_bad_input():
    with pytest.raises(InputError, match="reads an image with every text"):
        measured(Fake(vectors(0)), pair(0))
    with pytest.raises(InputError, match="has no texts.long"):
        measured(Table(), pair(0), role="long")
    with pytest.raises(InputError, match="no-pair"):
        measured(Table(), asked("0", 0, q("which?"), a("red")))
