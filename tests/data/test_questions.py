"""Questions with their answers."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from diptych.data.questions import answered
from diptych.data.sample import BadSample, Sample, Text


def sample(pattern: str) -> Sample:
    """A sample of questions `q`, answers `a` and captions `c`, numbered in order."""
    roles = {"q": "question", "a": "answer", "c": "caption"}
    texts = [Text(text=f"{sign}{at}", role=roles[sign]) for at, sign in enumerate(pattern)]
    return Sample(key="k", source="", texts=texts)


@pytest.mark.parametrize(
    ("pattern", "pairs"),
    [
        ("", []),
        ("c", []),
        ("aqa", [("q1", ["a2"])]),
        ("qacaqa", [("q0", ["a1", "a3"]), ("q4", ["a5"])]),
        ("qqaa", [("q0", ["a2"]), ("q1", ["a3"])]),
        ("qaaqqaa", [("q0", ["a1", "a2"]), ("q3", ["a5"]), ("q4", ["a6"])]),
    ],
)
def test_answers_are_of_the_question_before_them_or_of_as_many_in_order(pattern, pairs):
    assert [(question.text, said) for question, said in answered(sample(pattern))] == pairs


@pytest.mark.parametrize("pattern", ["q", "qq", "qaq", "qaaq", "qqa", "qqaaa", "qaqqa"])
def test_questions_whose_answers_are_not_known_are_unpaired(pattern):
    with pytest.raises(BadSample, match="unpaired: k has [0-3] answers to [12] questions in a row"):
        answered(sample(pattern))


@given(st.lists(st.integers(1, 3), max_size=6))
def test_each_question_has_the_answers_behind_it(counts):
    found = answered(sample("".join("q" + "a" * count for count in counts)))
    assert [len(said) for _, said in found] == counts
