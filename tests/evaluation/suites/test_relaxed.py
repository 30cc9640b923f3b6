"""Relaxed accuracy: its tolerance, texts, and the suite's option."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, vectors
from tests.evaluation.suites.answers_helpers import FIELDS, a, asked, q

from diptych.errors import InputError
from diptych.evaluation.suites._relaxed import equal, relaxed_accuracy
from diptych.evaluation.suites.answers import answers


@given(st.floats(1, 1000), st.floats(-0.2, 0.2), st.sampled_from([1, -1]))
def test_numbers_are_right_within_the_tolerance(right, off, sign):
    if abs(abs(off) - 0.05) > 1e-6:
        assert equal(str(sign * right * (1 + off)), str(sign * right)) == (abs(off) <= 0.05)


def test_percentages_texts_and_nothing():
    assert equal("5 %", "0.05")
    assert not equal("5", "5%")
    assert not equal("0.01", "0")  # of 0 there is no share
    assert equal("0", "0")
    assert equal("Yes ", "yes")
    assert not equal("yes, it is", "yes")
    assert not equal("1,000", "1000")  # as published: no number
    assert not equal("three", "3")
    assert relaxed_accuracy([], []) == 0


def test_the_suite_adds_relaxed_accuracy_where_it_is_asked_for():
    rows = [asked(str(at), at, q("how much?"), a("100"), a("one hundred")) for at in range(3)]
    source = Rows(rows, fields=FIELDS)
    model = Fake(vectors(0))
    model.written = lambda number, prompt: ("104", "94", "One hundred")[number]
    found = answers(model, source, relaxed=True)
    assert found["relaxed"] == pytest.approx(2 / 3)
    assert found["chance_relaxed"] == 1
    assert "relaxed" not in answers(model, source)


def test_chosen_answers_have_no_numbers_to_compare():
    source = Rows([asked("x", 0, q("how many?", "1", "2"), a("1"))], fields=FIELDS)
    with pytest.raises(InputError, match="leave out --relaxed"):
        answers(Fake(vectors(0)), source, by="embed", relaxed=True)
