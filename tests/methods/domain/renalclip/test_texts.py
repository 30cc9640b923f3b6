"""Reports: sentences with decimals stay whole, sections stay apart, and variants are shuffled ones."""

import numpy as np
import pytest
from tests.factories import tokenizer

from diptych.data.sample import BadSample, Sample, Text
from diptych.methods.domain.renalclip.texts import (
    VariantsView,
    completed,
    sections,
    sentences,
    shuffled,
)
from diptych.rng import generator

REPORT = (
    "Findings: 1. A mass of 3.5 cm. 2. The R.E.N.A.L. score is 7.5. No stone; fat is seen.\n"
    "Impression: 1) Solid mass, approx. 3.5 x 2.0 cm. 2) Follow-up!"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A mass of 3.5 cm. No stone.", ["A mass of 3.5 cm.", "No stone."]),
        ("The R.E.N.A.L. score is 7. Cyst.", ["The R.E.N.A.L. score is 7.", "Cyst."]),
        ("1. One cyst. 2. Two. 10. Ten.", ["One cyst.", "Two.", "Ten."]),
        ("1) A. B is here\n2) C", ["A.", "B is here", "C"]),
        (
            "Size 2.0 x 3.5 cm! Is it wet? No; dry.",
            ["Size 2.0 x 3.5 cm!", "Is it wet?", "No;", "dry."],
        ),
        ("approx. 4 cm, e.g. large. End", ["approx. 4 cm, e.g. large.", "End"]),
        ("", []),
        ("no stop", ["no stop"]),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


def test_shuffling_keeps_sections_and_sentences():
    found = {shuffled(REPORT, np.random.default_rng(seed)) for seed in range(30)}
    assert len(found) > 8
    for report in found:
        (first, findings), (second, impression) = sections(report)
        assert (first, second) == ("Findings: ", "Impression: ")
        assert sorted(sentences(findings)) == sorted(
            ["A mass of 3.5 cm.", "The R.E.N.A.L. score is 7.5.", "No stone;", "fat is seen."]
        )
        assert sorted(sentences(impression)) == sorted(
            ["Solid mass, approx. 3.5 x 2.0 cm.", "Follow-up!"]
        )
        assert shuffled(report, np.random.default_rng(0)).count("3.5") == 2


def test_a_text_without_headings_is_one_section():
    assert sections("A cyst. No stone.") == [("", "A cyst. No stone.")]
    assert sorted(sentences(shuffled("B. A. C.", np.random.default_rng(1)))) == ["A.", "B.", "C."]


def test_empty_findings_say_that_the_kidney_of_the_side_is_normal():
    empty = "Findings:\nImpression: Normal."
    assert "No abnormalities in the right kidney." in completed(empty, "right")
    assert completed("Findings: A cyst.", "right") == "Findings: A cyst."


def test_variants_begin_with_the_report_and_are_the_same_each_time():
    words = tokenizer()
    sides = ("left", "right")
    view = VariantsView(tokenizer=words, count=4, sides=sides)
    sample = Sample(key="a", source="", texts=[Text(text="a b. c d. e f.")], labels={"side": 1})
    found = view(sample, generator(0, "view"), None)["texts.variants"]
    assert len(found) == 4
    assert found[0] == words.encode(["a b. c d. e f."])[0]
    assert found == view(sample, generator(0, "view"), None)["texts.variants"]
    empty = Sample(key="a", source="", texts=[Text(text="Findings:")], labels={"side": 0})
    [given, *_] = view(empty, generator(0, "view"), None)["texts.variants"]
    assert given == words.encode(["Findings: No abnormalities in the left kidney."])[0]
    with pytest.raises(BadSample, match="no text of role"):
        view(Sample(key="a", source=""), generator(0, "view"), None)
