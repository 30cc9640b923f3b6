"""Diagrams: what a caption states is what the figure shows, edits are seen, names that say the same
are one figure."""

import math
import pickle
import re
from itertools import permutations

import numpy as np
import pytest

from diptych.data import worlds
from diptych.data.sources import open_source
from diptych.data.worlds.diagrams import (
    Config,
    Program,
    World,
    caption_of,
    draw,
    other_orders,
    parse,
    program_of,
    ring,
)
from diptych.data.worlds.diagrams.edits import EDITS, edits_of
from diptych.data.worlds.diagrams.program import CIRCLES, LINES, MARKS, sides_of
from diptych.data.worlds.diagrams.questions import ASKED, questions_of
from diptych.errors import InputError

WORLD = World(Config(edits="all"))
FIGURES = [WORLD.sample(0, index) for index in range(60)]
SQUARE = {"A": (0.2, 0.2), "B": (0.8, 0.2), "C": (0.8, 0.8), "D": (0.2, 0.8)}


def angle(apex, one, two):
    """The angle between two points, seen from a third, in degrees."""
    a, b = (math.atan2(point[1] - apex[1], point[0] - apex[0]) for point in (one, two))
    return abs(math.degrees((a - b + math.pi) % (2 * math.pi) - math.pi))


def from_line(point, a, b):
    """The distance of a point from the line through two others."""
    area = (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])
    return abs(area) / math.dist(a, b)


def holds(program, kind, first, second):
    """Whether a relation holds of the points of a program, to a hundredth."""
    at = program.at
    if kind in CIRCLES:
        radius = dict(program.circles)[first]
        centre = at[first]
        reach = (
            [math.dist(centre, at[letter]) for letter in second]
            if kind == "circumscribed"
            else [from_line(centre, *program.ends(side)) for side in sides_of(second)]
        )
        return all(abs(each - radius) < 0.01 for each in reach)
    (a, b), (c, d) = program.ends(first), program.ends(second)
    if kind in LINES:
        if from_line(b, c, d) > 1e-9:
            return False
        return {
            "altitude": abs(angle(b, a, c) - 90) < 1,
            "median": abs(math.dist(b, c) - math.dist(b, d)) < 0.01,
            "bisector": abs(angle(a, b, c) - angle(a, b, d)) < 1,
        }[kind]
    if kind == "equal":
        return abs(math.dist(a, b) - math.dist(c, d)) < 0.01
    turned = angle((0, 0), (b[0] - a[0], b[1] - a[1]), (d[0] - c[0], d[1] - c[1]))
    return min(turned, 180 - turned) < 1 if kind == "parallel" else abs(turned - 90) < 1


def pixels(figure, size=64):
    return np.asarray(draw(program_of(figure), size), np.float64)[..., 0]


def test_the_caption_states_the_facts_and_the_relation_holds_of_the_points():
    for figure in FIGURES:
        for each in (figure, *edits_of(figure, EDITS, 12, WORLD.numbers)):
            program = program_of(each)
            assert parse(caption_of(program, each.seed)) == program.facts
            assert all(holds(program, *relation) for relation in program.relations)
            assert all(0.02 < value < 0.98 for _, point in program.points for value in point)


def test_an_edit_states_other_facts_and_is_seen_at_64_pixels():
    kinds = set()
    for figure in FIGURES:
        own = program_of(figure).facts
        seen = {own}
        image = pixels(figure)
        for edit in edits_of(figure, EDITS[:-1], 9, WORLD.numbers):
            facts = program_of(edit).facts
            assert facts not in seen
            seen.add(facts)
            kinds.add(edit.kind)
            # L for E changes six black pixels, the least
            assert np.abs(pixels(edit) - image).sum() / 255 > 4, (edit.kind, figure)
            if edit.kind in ("number", "shape"):
                assert len(facts ^ own) == 2
    assert kinds == set(EDITS[:-1])


def test_another_name_is_the_same_figure():
    for figure in FIGURES[:20]:
        for edit in edits_of(figure, ("renamed",), 9, WORLD.numbers):
            assert program_of(edit).facts == program_of(figure).facts
            assert WORLD.captions(edit)[0].text != WORLD.captions(figure)[0].text
            assert np.array_equal(pixels(edit), pixels(figure))


def test_8_of_24_names_of_a_quadrilateral_are_one_figure_and_16_others():
    assert sum(ring("".join(order)) == "ABCD" for order in permutations("ABCD")) == 8
    assert len(other_orders("ABCD")) == 16
    assert {ring(order) for order in other_orders("ABCD")} == {"ABDC", "ACBD"}
    assert other_orders("ABC") == other_orders("AB") == []


def test_exchanged_corners_of_an_equilateral_triangle_are_no_edit():
    plain = World(Config(lengths=0))
    figure = next(
        figure
        for figure in (plain.sample(0, index) for index in range(400))
        if (figure.shape, figure.relation[0]) == ("equilateral triangle", "inscribed")
    )
    edits = edits_of(figure, ("letters",), 9, plain.numbers)
    centres = {edit.letters[-1] for edit in edits}
    assert len(edits) == 3  # one for each other letter at the centre
    assert centres == set(figure.letters[:3])


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ({"polygons": [("square", "ACBD")]}, "the sides AC and BD of polygon ACBD cross"),
        ({"segments": ["AE"]}, "names 'E' and has the points A, B, C, D"),
        ({"relations": [("above", "AB", "CD")]}, "has the relation 'above'; it must be one of parallel"),
    ],
)  # fmt: skip
def test_a_program_that_cannot_be_drawn_is_refused(program, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Program.of(SQUARE, **program)


def test_segments_and_circles_without_facts_are_named():
    program = Program.of(SQUARE, segments=["AC"], circles={"B": 0.2})
    assert caption_of(program, 0) == "segment AC and circle B"
    assert program.facts == {("segment", "AC"), ("circle", "B")}
    with pytest.raises(InputError, match="states no fact of a diagram"):
        parse("a cat on a mat")


def asked(figure, *kinds):
    return questions_of(figure, kinds or ASKED, WORLD.numbers)


def stated(question, facts):
    """The right answers to a question by the facts that a caption states."""
    [(_, shape, name)] = [fact for fact in facts if fact[0] == "polygon"]
    [marked] = [fact for fact in facts if fact[0] not in ("polygon", "length")]
    first, *rest = question.text.removesuffix("?").split()
    words = (first, rest[-1])
    if words == ("which", "drawn"):
        return {shape}
    if words == ("which", "marked"):
        return {marked[0]}
    if words[0] == "how":
        return {fact[2] for fact in facts if fact[:2] == ("length", ring(words[1]))}
    if words == ("which", "corner"):  # which point is no corner
        return set("".join(marked[1:])) - set(name)
    if words == ("at", "meet"):
        return set(marked[1]) & set(marked[2])
    beside = {letter for side in sides_of(name) if words[1] in side for letter in side}
    return set(name) - beside


def test_questions_have_the_one_answer_that_the_caption_states():
    found = set()
    for figure in FIGURES:
        for each in (figure, *edits_of(figure, EDITS, 6, WORLD.numbers)):
            facts = parse(WORLD.captions(each)[0].text)
            questions = asked(each)
            assert [question.kind for question in questions] == [*_ORDER]
            for question in questions:
                found.add(question.text.split()[-1].rstrip("?"))
                assert {question.answer} == stated(question, facts), (question, facts)
                assert question.answer in question.choices
                assert len({*question.choices}) == len(question.choices) <= 4
                assert len(question.choices) > 1
    assert {"drawn", "marked", "corner", "meet"} < found


_ORDER = ("letters", "shape", "relation", "number")


def test_an_edit_changes_the_answer_of_its_kind_and_another_name_none():
    for figure in FIGURES:
        own = {question.text: question.answer for question in asked(figure)}
        for edit in edits_of(figure, EDITS, 12, WORLD.numbers):
            answers = [question.answer for question in asked(edit)]
            if edit.kind == "renamed":
                assert answers == list(own.values())
            elif edit.kind != "letters":
                changed = {
                    question.kind
                    for question in asked(edit)
                    if own[question.text] != question.answer
                }
                if edit.kind == "relation":  # it may be of other sides, that meet elsewhere
                    assert (edit.kind in changed) == (edit.relation[0] != figure.relation[0])
                    assert changed <= {"relation", "letters"}
                else:
                    assert changed == {edit.kind}


def test_an_edit_of_the_letters_is_asked_the_same_and_often_answers_otherwise():
    pairs = []
    for figure in FIGURES:
        [question] = asked(figure, "letters")
        for edit in edits_of(figure, ("letters",), 4, WORLD.numbers):
            [other] = asked(edit, "letters")
            assert other.text == question.text
            pairs.append(question.answer != other.answer)
    assert np.mean(pairs) > 0.25


def test_relations_of_questions_are_of_one_group():
    for figure in FIGURES:
        [question] = asked(figure, "relation")
        assert any({*question.choices} == {*group} for group in (MARKS, LINES, CIRCLES))


def test_samples_and_their_edits_have_questions():
    source = open_source("diagrams:count=4:questions=number+letters:edits=number:number=1")
    schema = source.schema()
    assert {"texts.question", "texts.answer"} <= set(schema)
    sample = source[1]
    texts = [(text.role, text.attrs.get("kind")) for text in sample.texts[1:]]
    assert texts == [
        ("question", "letters"),
        ("answer", None),
        ("question", "number"),
        ("answer", None),
    ]
    [edit] = sample.edits
    assert edit.captions("question") == sample.captions("question")
    assert edit.captions("answer")[0] == sample.captions("answer")[0]
    assert edit.captions("answer")[1] != sample.captions("answer")[1]
    assert "texts.question" not in open_source("diagrams:count=4").schema()
    two = open_source("diagrams:count=1:questions=number:lengths=2")[0]
    assert len(two.captions("question")) == 2


def test_samples_have_edits_labels_and_pictures_of_any_size():
    source = open_source("diagrams:count=3:edits=letters+number:number=4:size=96")
    assert source.name == "diagrams:count=3:size=96:edits=letters+number:number=4"
    sample = source[1]
    assert [edit.kind for edit in sample.edits] == ["letters", "number"] * 2
    assert all(edit.edits == [] for edit in sample.edits)
    image = np.asarray(sample.images["main"].decode())
    assert image.shape == (96, 96, 3)
    assert image[0].min() == 255 and image.min() < 60  # noqa: PT018
    names = source.schema()["labels.shape"].classes
    assert names[sample.labels["shape"]] in sample.captions()[0]
    again = pickle.loads(pickle.dumps(source))[1]
    assert np.array_equal(np.asarray(again.images["main"].decode()), image)
    assert sample.captions() != open_source("diagrams:count=3:split=test")[1].captions()
    assert "edits" not in open_source("diagrams:count=3").schema()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "option 'size' of world 'diagrams' is 8; it must be 32 to 512"),
        ({"split": "all"}, "unknown split of diagrams 'all'"),
        ({"letters": "ABCA"}, "it must be five or more different capitals"),
        ({"edits": "colour"}, "unknown edit of diagrams 'colour'"),
        ({"questions": "renamed"}, "unknown question of diagrams 'renamed'"),
        ({"questions": "number", "lengths": 0}, "asks for lengths, and lengths=0 draws none"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        worlds.build("diagrams", options)


def test_a_figure_that_permits_no_edit_says_so():
    kite = next(figure for figure in FIGURES if edits_of(figure, ("relation",), 1, ()) == [])
    with pytest.raises(InputError, match="leaves no room for the edit 'relation'"):
        WORLD.edit(kite, "relation")
    with pytest.raises(InputError, match="unknown edit of diagrams 'colour'"):
        WORLD.edit(kite, "colour")
