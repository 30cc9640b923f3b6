"""Yes/no questions: measures against counts, which questions there are, and what counts as yes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.helpers import Rows
from tests.evaluation.suites.answers_helpers import FIELDS, a, asked, q
from tests.evaluation.suites.vision_helpers import Table

from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.hallucination import report

SAMPLES = [
    asked("0", 0, q("is there a cat?"), a("yes"), q("how many?"), a("two")),
    asked("1", 1, q("is there a cat?"), a("No.")),
    asked("2", 2, q("is there a cat?"), a("no"), q("is it red?"), a("Yes"), a("yes")),
    asked("3", 3, q("is it red?"), a("yes"), a("no")),
]


@given(st.lists(st.tuples(st.sampled_from("yn?"), st.booleans()), min_size=1, max_size=20))
def test_measures_are_counts(rows):
    told = np.array([word for word, _ in rows])
    right = np.array([truth for _, truth in rows])
    found = report(told == "y", told == "n", right)
    count = len(rows)
    good = sum((word == "y") == truth and word != "?" for word, truth in rows)
    assert found["accuracy"] == pytest.approx(good / count)
    asked_no = [word for word, truth in rows if not truth]
    asked_yes = [word for word, truth in rows if truth]
    said_yes = [truth for word, truth in rows if word == "y"]
    assert ("hallucination" in found) == bool(asked_no)
    if asked_no:
        assert found["hallucination"] == pytest.approx(asked_no.count("y") / len(asked_no))
    if asked_yes:
        assert found["missed"] == pytest.approx(1 - asked_yes.count("y") / len(asked_yes))
        assert found["recall"] == pytest.approx(1 - found["missed"])
        precision = sum(said_yes) / len(said_yes) if said_yes else 0
        assert found["precision"] == pytest.approx(precision)
        both = precision + found["recall"]
        assert found["f1"] == pytest.approx(2 * precision * found["recall"] / both if both else 0)


def test_always_yes_is_chance():
    yes = np.ones(8, bool)
    right = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    found = report(yes, ~yes, right)
    for name, value in found.items():
        if not name.startswith("chance_") and name != "yes":
            assert value == pytest.approx(found[f"chance_{name}"]), name


def test_generated_answers_count_by_their_first_word():
    model = Table(
        {
            (0, "is there a cat?"): "Yes, there is no dog.",
            (1, "is there a cat?"): "yes",
            (2, "is there a cat?"): "A cat? no",
            (2, "is it red?"): "No!",
        }
    )
    found = evaluate(model, Rows(SAMPLES, fields=FIELDS), ["hallucination"])["hallucination"]
    assert (found["n"], found["bad"]) == (4, {"no-yes-or-no": 1})
    assert found["hallucination"] == 0.5
    assert found["missed"] == 0.5
    assert found["accuracy"] == 0.25
    assert found["yes"] == 0.5


def test_by_log_prob_the_likelier_word_counts_and_ties_lose():
    model = Table(scores={(0, "yes"): -1.0, (1, "no"): -1.0, (2, "yes"): -3.0, (2, "no"): -3.0})
    source = Rows(SAMPLES, fields=FIELDS)
    found = evaluate(model, source, ["hallucination"], by="log_prob")["hallucination"]
    assert found["hallucination"] == 0.0
    assert (found["accuracy"], found["yes"]) == (0.5, 0.25)


def test_bad_input():
    with pytest.raises(InputError, match="unknown way to answer yes or no 'embed'"):
        evaluate(Table(), Rows(SAMPLES, fields=FIELDS), ["hallucination"], by="embed")
    source = Rows([asked("0", 0, q("how many?"), a("two"))], fields=FIELDS)
    with pytest.raises(InputError, match="no-yes-or-no"):
        evaluate(Table(), source, ["hallucination"])
