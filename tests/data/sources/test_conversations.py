"""LLaVA's conversations, on fixtures of their true form."""

import json

import pytest
from PIL import Image

from diptych.data.sources import formats, open_source
from diptych.errors import InputError


def talk(number, *turns, **changed):
    said = [{"from": who, "value": value} for who, value in turns]
    return {"id": f"{number:09d}", "image": f"coco/{number}.jpg", "conversations": said} | changed


ASKED = (
    ("human", "<image>\nWhat are the colors of the bus?"),
    ("gpt", "The bus is white and red."),
    ("human", "Is it full?"),
    ("gpt", "No."),
)
CAPTION = (("human", "Share a concise interpretation.\n<image>"), ("gpt", "a red bus on a road"))


@pytest.fixture
def published(tmp_path):
    (tmp_path / "images" / "coco").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / "coco" / f"{number}.jpg")

    def write(*rows, name="mix.json"):
        path = tmp_path / name
        path.write_text(json.dumps(rows), "utf-8")
        return str(path)

    return write


def spoken(sample):
    return [(text.role, text.text) for text in sample.texts]


def test_turns_are_questions_with_answers_without_the_mark_of_the_image(published):
    source = open_source(published(talk(0, *ASKED), talk(1, *CAPTION)))
    assert list(source.keys()) == ["000000000", "000000001"]
    assert not source.damage
    assert spoken(source[0]) == [
        ("question", "What are the colors of the bus?"),
        ("answer", "The bus is white and red."),
        ("question", "Is it full?"),
        ("answer", "No."),
    ]
    assert source[1].images["main"].decode().size == (8, 6)
    assert set(source.schema()) == {"images.main", "texts.question", "texts.answer"}
    assert "conversations" in formats()


def test_the_first_answer_is_a_caption_where_it_is_asked_for(published):
    source = open_source(published(talk(1, *CAPTION)) + ":role=caption")
    assert spoken(source[0]) == [("caption", "a red bus on a road")]
    assert set(source.schema()) == {"images.main", "texts.caption"}


def test_a_conversation_may_have_no_image(published):
    alone = talk(2, ("human", "Hello?"), ("gpt", "Hello."))
    del alone["image"]
    source = open_source(published(alone, talk(0, *ASKED)))
    assert source.schema()["images.main"].optional
    assert source[0].images == {}
    none = open_source(published(alone, name="alone.json"))
    assert "images.main" not in none.schema()


def test_what_begins_or_ends_halfway_loses_that_turn_and_damage_is_counted(published):
    begun = talk(0, ("gpt", "Hello!"), *ASKED[:2], ("human", "And then?"))
    rows = [
        begun,
        talk(1, ASKED[0], ASKED[0], ASKED[1]),
        talk(1, ("tool", "x"), *ASKED),
        talk(1, ("human", "Is it?"), ("gpt", " ")),
        talk(1, *ASKED, image="../secret.jpg"),
        talk(1),
        7,
        talk(1, *ASKED, conversations=["no turn"]),
    ]
    path = published(*rows)
    source = open_source(path)
    assert len(source) == 1
    assert spoken(source[0]) == spoken(
        open_source(published(talk(0, *ASKED[:2]), name="b.json"))[0]
    )
    reasons = ["turns", "columns", "no-answer", "columns", "no-answer", "columns", "columns"]
    assert list(source.damage.values()) == reasons
    assert f"{path}:entry 2" in source.damage


def test_equal_ids_are_told_apart(published):
    source = open_source(published(talk(0, *ASKED), talk(0, *CAPTION)))
    assert list(source.keys()) == ["000000000#1", "000000000#2"]


def test_bad_files(published):
    with pytest.raises(InputError, match="no entry has a question with an answer"):
        open_source(published(talk(0, ASKED[0])))
    with pytest.raises(InputError, match=r"coco/7\.jpg, is not near it; name the folder"):
        open_source(published(talk(7, *ASKED)))
    with pytest.raises(InputError, match="option"):
        open_source(published(talk(0, *ASKED)) + ":pictures=x")
