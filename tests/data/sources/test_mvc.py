"""Pairs of MVC: as published, as written, and damaged."""

import json

import pytest
from PIL import Image

from diptych.data.sample import Sample, Text
from diptych.data.sources import formats, open_source
from diptych.data.sources.mvc import FILE, write
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.testing import Toy


def row(number=0, **changed):
    """A row of the published form."""
    return {
        "system_prompt": "You answer questions about images.",
        "instruction_prompt": "<image>\nHow many dogs are there?",
        "chosen_images": [f"images/{number}_w.png"],
        "chosen_response": "There are two dogs.",
        "rejected_images": [f"images/{number}_l.png"],
        "rejected_response": "There is one dog.",
    } | changed


def published(folder, *rows, name="mvc.json"):
    path = folder / name
    path.write_text(json.dumps(rows), "utf-8")
    (folder / "images").mkdir(exist_ok=True)
    for number in range(len(rows)):
        for at, member in enumerate("wl"):
            Image.new("RGB", (8, 8), (number, at, 0)).save(
                folder / "images" / f"{number}_{member}.png"
            )
    return path


def test_a_row_is_a_sample_with_the_other_image_as_its_edit(tmp_path):
    source = open_source(str(published(tmp_path, row(), row(1))))
    assert "mvc" in formats()
    assert list(source.keys()) == ["0", "1"]
    sample = source[1]
    [edit] = sample.edits
    for each, answer, pixel in (
        (sample, "There are two dogs.", (1, 0, 0)),
        (edit, "There is one dog.", (1, 1, 0)),
    ):
        assert each.captions("system") == ["You answer questions about images."]
        assert each.captions("question") == ["How many dogs are there?"]
        assert each.captions("answer") == [answer]
        assert each.images["main"].decode().getpixel((0, 0)) == pixel
    assert edit.kind == "contrast"
    schema = source.schema()
    assert {"images.main", "edits", "texts.question", "texts.answer", "texts.system"} == set(schema)
    assert not schema["texts.answer"].optional


def test_a_row_that_asks_nothing_has_captions(tmp_path):
    quiet = row(1, instruction_prompt="<image>", system_prompt="")
    source = open_source(str(published(tmp_path, row(), quiet)))
    assert [text.role for text in source[1].texts] == ["caption"]
    assert source[1].edits[0].captions() == ["There is one dog."]
    assert source.schema()["texts.caption"].optional
    assert source.schema()["texts.answer"].optional


def test_json_lines_and_a_folder_of_images(tmp_path):
    published(tmp_path, row())
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "mvc.jsonl"
    path.write_text(json.dumps(row()) + "\n{\n", "utf-8")
    source = open_source(f"{path}:images={tmp_path}")
    assert len(source) == 1
    assert list(source.damage) == [f"{path}:row 1"]


def test_rows_of_another_form_are_damage_by_reason(tmp_path):
    bad = {
        "columns": [
            row(chosen_response=None),
            row(rejected_images=[3]),
            row(chosen_images=["../secret.png"]),
            {"chosen_images": []},
            3,
        ],
        "images": [row(chosen_images=["images/0_w.png", "images/1_w.png"])],
        "no-contrast": [row(rejected_response="There are two dogs. "), row(chosen_response=" ")],
    }
    path = published(tmp_path, row())
    path.write_text(json.dumps([row(), *(each for rows in bad.values() for each in rows)]), "utf-8")
    source = open_source(str(path))
    assert len(source) == 1
    expected = [reason for reason, rows in bad.items() for _ in rows]
    assert list(source.damage.values()) == expected
    assert next(iter(source.damage)) == f"{path}:row 1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"chosen_images": 1, "rejected_images": 2}', "it is no list of pairs"),
        (json.dumps([row(chosen_response=3)]), "no row has an image and a response on both sides"),
        (json.dumps([row()]), "its first image, images/0_w.png, is not near it; name the folder"),
    ],
)
def test_what_a_wrong_file_is_told(tmp_path, content, message):
    path = tmp_path / "mvc.json"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=message):
        open_source(str(path))


def test_what_is_written_is_read_again(tmp_path):
    toy = Toy(2, ("images.main", "texts.caption", "edits"))
    assert write(toy, tmp_path / "toy") == 6
    source = open_source(str(tmp_path / "toy" / FILE))
    assert [sample.edits[0].kind for sample in source] == ["recolour", "replace", "move"] * 2
    assert source[4].captions() == toy[1].captions()
    assert source[4].edits[0].captions() == toy[1].edits[1].captions()
    first = published(tmp_path, row(), row(1))
    again = tmp_path / "again"
    assert write(open_source(str(first)), again) == 2
    one, other = (open_source(str(each)) for each in (first, again / FILE))
    assert [[text.text for text in each.texts] for each in one] == [
        [text.text for text in each.texts] for each in other
    ]
    assert other[1].edits[0].images["main"].read() == one[1].edits[0].images["main"].read()


def test_what_cannot_be_written_is_refused(tmp_path):
    class Bare(Wrapped):
        def __getitem__(self, index):
            return Sample(key="0", source="bare", texts=(Text(text="a cat"),))

    with pytest.raises(InputError, match="no sample of toy has an image, a text, and an edit"):
        write(Bare(Toy(1)), tmp_path / "empty")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        write(Toy(1, ("images.main", "texts.caption", "edits")), tmp_path)
