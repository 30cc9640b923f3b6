"""ScienceQA's questions, on a fixture of their true form."""

import json

import pytest
from PIL import Image

from diptych.data.sources import formats, open_source
from diptych.errors import InputError
from diptych.evaluation.suites.answers import questions


def problem(**changed):
    return {
        "question": "Which of these states is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
        "answer": 0,
        "hint": "",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "topic": "geography",
        "category": "Geography",
        "skill": "Read a map: cardinal directions",
        "lecture": "Maps have four cardinal directions.",
        "solution": "To find the answer, look at the compass rose.",
        "split": "train",
    } | changed


@pytest.fixture
def published(tmp_path):
    for split, number in (("train", 1), ("test", 3)):
        folder = tmp_path / "images" / split / str(number)
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(folder / "image.png")

    def write(**rows):
        path = tmp_path / "problems.json"
        path.write_text(json.dumps({key[1:]: row for key, row in rows.items()}), "utf-8")
        return str(path)

    return write


def test_a_question_has_its_choices_and_what_it_gives_as_a_hint(published):
    source = open_source(
        published(
            q1=problem(),
            q2=problem(image=None, hint="A hint."),
            q3=problem(hint="Figure: a frog.", split="test", answer=2, lecture="", solution=""),
        )
    )
    assert list(source.keys()) == ["1", "3"]
    [asked] = questions(source[0], choose=True)
    assert asked.choices == ("West Virginia", "Louisiana", "Arizona", "Oklahoma")
    assert asked.answers == ("West Virginia",)
    [asked] = questions(source[1], choose=True)
    assert asked.text == "Figure: a frog. Which of these states is farthest north?"
    assert asked.answers == ("Arizona",)
    assert source[1].images["main"].decode().size == (8, 6)
    assert source[0].captions("lecture") == ["Maps have four cardinal directions."]
    assert source.schema()["texts.lecture"].optional
    assert not source.schema()["images.main"].optional
    assert "scienceqa" in formats()


def test_splits_and_questions_without_an_image(published):
    rows = {"q1": problem(), "q2": problem(image=None), "q3": problem(split="test")}
    path = published(**rows)
    assert list(open_source(f"{path}:split=test").keys()) == ["3"]
    source = open_source(f"{path}:without=true")
    assert list(source.keys()) == ["1", "2", "3"]
    assert source[1].images == {}
    assert source.schema()["images.main"].optional
    with pytest.raises(InputError, match="no question of the split 'val' has an image"):
        open_source(f"{path}:split=val")
    with pytest.raises(InputError, match="images"):
        open_source(f"{path}:images=elsewhere")


def test_damage_is_counted(published):
    path = published(
        q1=problem(),
        q4=problem(answer=4),
        q5=problem(answer=True),
        q6=problem(choices="two"),
        q7=problem(question=" "),
        q8=problem(image="../../secret.png"),
        q9=problem(split=None),
    )
    source = open_source(path)
    assert len(source) == 1
    assert list(source.damage.values()) == ["answer", "answer", *["columns"] * 4]
