"""Questions of POPE: lines as published, and damaged ones."""

import json

import pytest
from PIL import Image

from diptych.data.sources import formats, open_source
from diptych.errors import InputError
from diptych.spec import Spec


def line(number, image="a.png", thing="cat", label="yes"):
    """A line of the published form."""
    text = f"Is there a {thing} in the image?"
    return json.dumps({"question_id": number, "image": image, "text": text, "label": label})


LINES = [
    line(1),
    line(2, thing="dog", label="no"),
    line(3, thing="car", label="no"),
    line(4, image="b.png"),
    line(5, thing="bus"),
]


def published(folder, lines, name="coco_pope_random.json", images="val2014"):
    (folder / images).mkdir()
    for each in "ab":
        Image.new("RGB", (4, 4)).save(folder / images / f"{each}.png")
    path = folder / name
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize("name", ["coco_pope_random.json", "coco_pope_popular.jsonl"])
def test_an_image_has_all_its_questions_with_their_answers(tmp_path, name):
    source = open_source(str(published(tmp_path, LINES, name)))
    assert "pope" in formats()
    assert list(source.keys()) == ["a.png", "b.png"]
    sample = source[0]
    assert sample.captions("answer") == ["yes", "no", "no", "yes"]
    assert sample.captions("question")[3] == "Is there a bus in the image?"
    assert [text.role for text in sample.texts] == ["question", "answer"] * 4
    assert sample.images["main"].decode().size == (4, 4)
    assert set(source.schema()) == {"images.main", "texts.question", "texts.answer"}


def test_lines_of_another_form_are_damage(tmp_path):
    bad = ["{", line(2, label="maybe"), line(3, image="../a.png"), '{"image": 3}']
    path = published(tmp_path, [*LINES, *bad], images="photos")
    source = open_source(f"{path}:images={tmp_path}/photos")
    assert list(source.damage) == [f"{path}:line {number}" for number in (6, 7, 8, 9)]
    assert list(source.damage.values())[1:] == ["columns"] * 3


def test_a_missing_folder_of_images_is_named(tmp_path):
    path = published(tmp_path, LINES, images="photos")
    with pytest.raises(InputError, match="its first image, a.png, is not near it; name the folder"):
        open_source(str(path))


def test_other_lines_are_not_taken_for_these(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question_id": 1, "image": "a.png", "text": "a cat", "label": 3}\n')
    assert not formats()["pope"].claims(Spec(str(path)))
