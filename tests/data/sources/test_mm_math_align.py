"""Lists of MM-Math-Align: as published, as written, and damaged."""

import json
import re

import pytest
from PIL import Image

from diptych.data.sample import Sample, Text
from diptych.data.sources import formats, open_source
from diptych.data.sources.mm_math_align import FILE, write
from diptych.data.wrap import Wrapped
from diptych.errors import InputError


def row(number=0, negatives=10, captions=10, **changed):
    """A row of the published form."""
    return {
        "positive_image_path": f"images/{number}_pos.png",
        "negative_image_path": [f"images/{number}_neg_{at}.png" for at in range(negatives)],
        "negative_captions": [f"In triangle ABC, AB = {at + 6}" for at in range(captions)],
        "conversations": [
            {"from": "human", "value": "<image>\nDescribe the figure."},
            {"from": "gpt", "value": "In triangle ABC, AB = 5"},
        ],
    } | changed


def published(folder, *rows, images=True):
    path = folder / "align.json"
    path.write_text(json.dumps(rows), "utf-8")
    if images:
        (folder / "images").mkdir()
        for each in rows:
            for name in [each["positive_image_path"], *each["negative_image_path"]]:
                Image.new("RGB", (8, 8)).save(folder / name)
    return path


def test_a_row_is_a_sample_with_an_edit_for_each_position(tmp_path):
    source = open_source(str(published(tmp_path, row(), row(1, negatives=1, captions=3))))
    assert list(source.keys()) == ["images/0_pos.png", "images/1_pos.png"]
    sample = source[0]
    assert sample.captions() == ["In triangle ABC, AB = 5"]
    assert len(sample.edits) == 10
    assert sample.edits[3].captions() == ["In triangle ABC, AB = 9"]
    assert sample.edits[3].images["main"].decode().size == (8, 8)
    assert ["main" in edit.images for edit in source[1].edits] == [True, False, False]
    assert {edit.kind for edit in sample.edits} == {"negative"}
    assert len(open_source(f"{tmp_path}/align.json:max_edits=5")[0].edits) == 5
    assert "edits" in source.schema()
    assert "mm-math-align" in formats()


def test_json_lines_and_a_folder_of_images(tmp_path):
    (tmp_path / "texts").mkdir()
    path = tmp_path / "texts" / "align.jsonl"
    published(tmp_path, row())
    path.write_text(json.dumps(row()) + "\n{\n", "utf-8")
    source = open_source(f"{path}:images={tmp_path}")
    assert len(source) == 1
    assert list(source.damage) == [f"{path}:row 1"]


def test_rows_of_another_form_are_damage(tmp_path):
    bad = [
        row(conversations=[]),
        row(negative_captions="none"),
        row(negatives=0, captions=0),
        row(positive_image_path="../secret.png"),
        3,
    ]
    path = published(tmp_path, row())
    path.write_text(json.dumps([row(), *bad]), "utf-8")
    source = open_source(str(path))
    assert len(source) == 1
    assert set(source.damage.values()) == {"columns"}
    assert len(source.damage) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"positive_image_path": 1}', "it is no list of objects"),
        (json.dumps([row(conversations=[])]), "no row has positive_image_path, negatives, and a caption"),
        (json.dumps([row()]), "its first image, images/0_pos.png, is not near it; name the folder with :images="),
    ],
)  # fmt: skip
def test_what_a_wrong_file_is_told(tmp_path, content, message):
    path = tmp_path / "align.json"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        open_source(str(path))


class Mixed(Wrapped):
    """Edits of captions alone, of both, and of an image alone, in this order."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        both, *_ = sample.edits
        text = Sample(key="t", source="s", kind="rule", texts=(Text(text="In kite ABCD"),))
        image = Sample(key="i", source="s", kind="shape", images=both.images)
        return Sample(
            key=sample.key,
            source=sample.source,
            images=sample.images,
            texts=sample.texts,
            edits=[text, both, image],
        )


def test_what_is_written_is_read_again(tmp_path):
    source = open_source("diagrams:count=3:size=32:edits=number:number=2")
    assert write(Mixed(source), tmp_path / "out") == 3
    back = open_source(f"{tmp_path}/out/{FILE}")
    for index in range(3):
        sample = back[index]
        assert sample.captions() == source[index].captions()
        assert [edit.kind for edit in sample.edits] == ["number", "shape", "rule"]
        assert [len(edit.captions()) for edit in sample.edits] == [1, 0, 1]
        assert ["main" in edit.images for edit in sample.edits] == [True, True, False]
        assert sample.edits[0].captions() == source[index].edits[0].captions()
        assert sample.images["main"].decode().tobytes() == (
            source[index].images["main"].decode().tobytes()
        )


def test_nothing_is_written_beside_other_files_or_without_edits(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    source = open_source("diagrams:count=2:size=32")
    with pytest.raises(InputError, match="holds other files; give an empty folder"):
        write(source, tmp_path)
    with pytest.raises(InputError, match="has an image, a caption and edits"):
        write(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()
