"""Wrong captions: what rules change, and what says the same and is no negative."""

import re

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.data.worlds.diagrams import parse
from diptych.errors import InputError
from diptych.methods.pretrain.mmgeolm.negatives import (
    WithNegatives,
    content,
    neighbours,
    rule_negatives,
    same_figure,
)


def negatives(caption, count=200):
    return rule_negatives(caption, count, np.random.default_rng(0))


def test_a_quadrilateral_has_the_16_other_orders_a_triangle_and_a_segment_none():
    orders = [each[-4:] for each in negatives("quadrilateral ABCD")]
    # of the 8 names of one figure one is enough
    assert len(orders) == 2
    assert len({content(each) for each in orders}) == 2
    assert negatives("triangle ABC") == []
    assert negatives("segment AB") == []


def test_an_angle_has_its_vertex_in_the_middle():
    assert same_figure("angle ABC is acute", "angle CBA is acute")
    assert not same_figure("angle ABC", "angle BAC")
    assert {each[6:] for each in negatives("angle ABC") if each[7] == "A"} <= {"BAC", "CAB"}
    assert len(negatives("∠ABC")) == 2


def test_of_a_segment_both_letters_change():
    found = negatives("In square ABCD, AC is drawn")
    assert {name for each in found for name in re.findall(r"\b[A-Z]{2}\b", each)} == {"AC", "BD"}
    assert negatives("In triangle ABC, AB and AC are drawn") == []


def test_rules_change_one_fact_each_in_turn_and_bring_no_new_letter():
    caption = "In square ABCD, AC = 8.0 and triangle ABC is similar to triangle ADC"
    found = negatives(caption)
    for each in found:
        assert not same_figure(each, caption)
        assert set("".join(re.findall(r"\b[A-Z]{2,}\b", each))) <= set("ABCD")
    words = " ".join(found)
    assert "rectangle ABCD" in words
    assert "6.0" in words
    assert "congruent" in words
    first = found[:4]
    assert sum("square" not in each for each in first) == 1
    assert sum("8.0" not in each for each in first) == 1
    assert sum("similar" not in each for each in first) == 1


def test_parallel_never_becomes_perpendicular():
    assert all("perpendicular" not in each for each in negatives("AB is parallel to CD"))
    assert negatives("AB is perpendicular to it") == []


def test_wording_and_the_order_of_corners_say_the_same():
    assert same_figure("In square ABCD, AB = 5", "BA = 5 in square CDAB")
    assert same_figure("square ABCD", "square DCBA")
    assert not same_figure("square ABCD", "square ACBD")
    assert not same_figure("AB = 5", "AB = 6")


def test_neighbours_are_the_most_similar_captions_that_say_something_else():
    captions = [
        "square ABCD where AB = 5",
        "AB = 5 in square BCDA",
        "square ABCD where AB = 6",
        "a circle inscribed in kite KLMN",
    ]
    near = neighbours(captions, 2)
    assert near[0] == near[1] == [2, 3]
    assert neighbours(["square ABCD", "square DABC"], 3) == [[], []]


def test_captions_without_a_figure_are_the_same_where_their_words_are():
    captions = ["A dog runs.", "a dog runs", "A dog sleeps", "A BMX rider jumps", "2 dogs run"]
    assert same_figure(captions[0], captions[1])
    assert not same_figure("a dog bites a man", "a man bites a dog")
    assert not same_figure("2 dogs run", "2 men jump")
    assert neighbours(captions, 1)[:3] == [[2], [2], [0]]
    assert negatives("A dog runs") == []
    assert negatives("2 dogs run", 1)[0][1:] == " dogs run"


def test_numbers_of_an_unnamed_figure_are_its_content():
    assert same_figure("angle 1 = 45", "45 = angle 1")
    assert same_figure("a circle of length 8", "the length of the circle is 8")


def test_a_source_gets_negatives_of_each_kind():
    source = open_source("diagrams:count=12:size=32:edits=letters:number=2")
    wrong = WithNegatives(source, kinds="all", count=3)
    sample = wrong[4]
    kinds = [edit.kind for edit in sample.edits]
    assert kinds == ["letters"] * 2 + ["rule"] * 3 + ["retrieval"] * 3 + ["random"] * 3
    facts = parse(sample.captions()[0])
    assert all(parse(edit.captions()[0]) != facts for edit in sample.edits)
    assert [bool(edit.images) for edit in sample.edits] == [True] * 2 + [False] * 6 + [True] * 3
    assert [edit.captions() for edit in wrong[4].edits] == [
        edit.captions() for edit in sample.edits
    ]
    assert "edits" in wrong.schema()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "rules"}, "unknown kind of negatives 'rules'; did you mean 'rule'?"),
        ({"kinds": "edits"}, "has no edits; leave kind edits out"),
        ({"kinds": "rule", "role": "web"}, "has no texts.web, of which negatives are made"),
    ],
)
def test_what_wrong_options_are_told(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        WithNegatives(open_source("diagrams:count=3"), **options)
