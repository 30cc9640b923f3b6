"""ANLS against a table of edits, its anchors, and the suite's option."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, vectors
from tests.evaluation.suites.answers_helpers import FIELDS, a, asked, q

from diptych.errors import InputError
from diptych.evaluation.suites._anls import anls, nearness
from diptych.evaluation.suites.answers import answers

pytest.importorskip("rapidfuzz")


def edits_of(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above = row
        row = [i]
        for j, right in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
    return row[-1]


@settings(max_examples=60, deadline=None)
@given(st.text("ab", max_size=6), st.lists(st.text("abc", max_size=6), min_size=1, max_size=3))
def test_nearness_is_that_of_the_table_of_edits(text, right):
    apart = [edits_of(text, other) / max(len(text), len(other), 1) for other in right]
    assert nearness(text, right) == pytest.approx(max(0 if x >= 0.5 else 1 - x for x in apart))


def test_published_examples_and_the_limit():
    assert nearness("54 mm", ["54mm"]) == pytest.approx(0.8)
    assert nearness("18 inches", ["54mm"]) == 0
    assert nearness("  New   YORK ", ["new york"]) == 1
    assert nearness("ab", ["ac"]) == 0  # half of the letters
    assert nearness("", [""]) == 1
    assert anls([], []) == 0


def test_the_suite_adds_anls_where_it_is_asked_for():
    rows = [asked(str(at), at, q("how thick?"), a("54mm"), a("54 millimetre")) for at in range(3)]
    source = Rows(rows, fields=FIELDS)
    model = Fake(vectors(0))
    model.written = lambda number, prompt: ("54 mm", "18 inches", "54mm")[number]
    found = answers(model, source, anls=True)
    assert found["anls"] == pytest.approx((0.8 + 0 + 1) / 3)
    assert found["chance_anls"] == pytest.approx(1)
    assert "anls" not in answers(model, source)


def test_chosen_answers_have_no_letters_to_compare():
    source = Rows([asked("x", 0, q("how many?", "1", "2"), a("1"))], fields=FIELDS)
    with pytest.raises(InputError, match="leave out --anls"):
        answers(Fake(vectors(0)), source, by="embed", anls=True)
