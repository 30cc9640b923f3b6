"""MathVista, We-Math and MM-Math, on fixtures of their true forms."""

import json

import pytest
from PIL import Image

from diptych.data.sources import formats, open_source
from diptych.data.sources.math_questions import boxed
from diptych.errors import InputError
from diptych.evaluation.suites.answers import questions


def vista(number, **changed):
    return {
        "question": f"Find $m\\angle H$ ({number})",
        "image": f"images/{number}.jpg",
        "choices": ["97", "102", "107"],
        "unit": None,
        "precision": None,
        "answer": "97",
        "question_type": "multi_choice",
        "answer_type": "text",
        "pid": str(number),
        "metadata": {
            "split": "testmini",
            "source": "Geometry3K",
            "task": "geometry problem solving",
        },
    } | changed


def exam(number, **changed):
    return {
        "question": f"As shown, $CB = {number}$; find $AC$.",
        "file_name": f"{number}.png",
        "solution": "$AD = DC$, hence $AC = \\boxed{\\frac{3}{4}}$ cm.",
        "year": "eight",
        "difficult": "medium",
        "knowledge": "Properties of Shapes",
    } | changed


def step(number, **changed):
    """A question of We-Math."""
    return {
        "ID": "3steps_165",
        "split": "testmini",
        "knowledge concept": "Area of Circles",
        "question": "What is the area of the flower bed ( ) m²?",
        "option": "A. 200.96;B. 3; 4 or 5;C. 6280; D. 32; E. No correct answer",
        "answer": "B",
        "image_path": f"{number}.jpg",
        "key": f"3steps_{number}",
        "question number": 1575,
        "knowledge concept description": "Area of …",
    } | changed


@pytest.fixture
def published(tmp_path):
    def write(name, text):
        folder = tmp_path / ("images" if name.endswith(".json") else "Image")
        folder.mkdir(exist_ok=True)
        for number in range(3):
            ending = "jpg" if name.endswith(".json") else "png"
            Image.new("RGB", (8, 6)).save(folder / f"{number}.{ending}")
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write


def of_vista(*rows):
    return json.dumps({str(at): row for at, row in enumerate(rows)})


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def test_a_question_of_mathvista_has_its_choices(published):
    free = vista(1, choices=None, answer="1.2", question_type="free_form", precision=1)
    source = open_source(str(published("testmini.json", of_vista(vista(0), free))))
    assert list(source.keys()) == ["0", "1"]
    assert not source.damage
    [asked] = questions(source[0], choose=True)
    assert (asked.answers, asked.choices) == (("97",), ("97", "102", "107"))
    assert asked.kind == "geometry problem solving"
    [asked] = questions(source[1])
    assert asked.answers == ("1.2",)
    damaged = open_source(str(published("other.json", of_vista(vista(0, metadata=None)))))
    assert questions(damaged[0])[0].kind == ""
    assert source[1].images["main"].decode().size == (8, 6)
    assert not source.schema()["texts.answer"].optional
    assert "math-questions" in formats()


def test_choices_of_we_math_are_taken_apart(published):
    rows = [step(0), step(1, answer="E "), step(2, option="A. 3"), step(2, answer=None), "text"]
    path = published("testmini.json", json.dumps(rows))
    source = open_source(str(path))
    assert list(source.keys()) == ["3steps_165/3steps_0", "3steps_165/3steps_1"]
    [asked] = questions(source[0], choose=True)
    assert asked.choices == ("200.96", "3; 4 or 5", "6280", "32", "No correct answer")
    assert (asked.answers, asked.kind) == (("3; 4 or 5",), "Area of Circles")
    assert questions(source[1])[0].answers == ("No correct answer",)
    assert source.damage == {f"{path}:question {at}": "columns" for at in (3, 4, 5)}
    assert source[0].images["main"].decode().size == (8, 6)


def test_answers_that_are_not_published_are_absent(published):
    hidden = [vista(at, answer="") for at in range(2)]
    source = open_source(str(published("test.json", of_vista(*hidden))))
    assert source[0].captions("answer") == []
    assert set(source.schema()) == {"images.main", "texts.question"}
    partly = open_source(str(published("some.json", of_vista(vista(0), hidden[1]))))
    assert partly.schema()["texts.answer"].optional


def test_the_answer_of_mm_math_is_the_last_box_of_its_solution(published):
    source = open_source(str(published("MM_Math.jsonl", lines(exam(0), exam(1)))))
    sample = source[1]
    assert sample.key == "1.png"
    assert sample.captions("answer") == ["\\frac{3}{4}"]
    assert sample.captions("solution") == [exam(1)["solution"]]
    assert questions(sample)[0].kind == "medium"
    assert set(source.schema()) == {
        "images.main",
        "texts.question",
        "texts.answer",
        "texts.solution",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("no box {3}", ""),
        ("\\boxed{5", ""),
        ("first \\boxed{4}, then \\boxed{ {a}{b} }", "{a}{b}"),
    ],
)
def test_boxed(text, found):
    assert boxed(text) == found


def test_questions_of_one_image_have_keys_of_their_own(published):
    source = open_source(str(published("MM_Math.jsonl", lines(exam(0), exam(0)))))
    assert list(source.keys()) == ["0.png#1", "0.png#2"]


def test_damage_is_counted_by_place(published):
    rows = [
        exam(0),
        "{",
        exam(1, solution="no box"),
        exam(2, file_name="../2.png"),
        exam(2, question=" "),
    ]
    path = published("MM_Math.jsonl", lines(*rows))
    source = open_source(str(path))
    assert len(source) == 1
    assert source.damage == {
        f"{path}:row 2": "json",
        f"{path}:row 3": "columns",
        f"{path}:row 4": "columns",
        f"{path}:row 5": "columns",
    }
    rows = [vista(0), vista(1, choices="97"), vista(2, image=3), [1]]
    path = published("testmini.json", of_vista(*rows))
    assert list(open_source(str(path)).damage) == [f"{path}:question {at}" for at in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("testmini.json", of_vista(vista(0, question=5)), "no question in it has a text"),
        ("testmini.json", json.dumps([vista(0)]), "no question in it has a text"),
        ("testmini.json", json.dumps([step(0, answer="F")]), "no question in it has a text"),
        ("testmini.json", of_vista(vista(7)), "its first image, images/7.jpg, is not near it"),
        ("MM_Math.jsonl", lines(exam(0, file_name="")), "no question in it has a text"),
    ],
)
def test_bad_files_are_refused(published, name, text, message):
    with pytest.raises(InputError, match=message):
        open_source(str(published(name, text)))
