"""DOCCI's descriptions, on fixtures of their true form."""

import json

import pytest
from PIL import Image

from diptych.data.sources import formats, open_source
from diptych.errors import InputError


def line(number, split="train", **changed):
    name = f"{split}_{number:05d}"
    row = {
        "example_id": name,
        "split": split,
        "image_file": f"{name}.jpg",
        "description": f"An indoor view of the {number}th red vase. It stands on a table.",
    }
    return json.dumps({**row, **changed})


@pytest.fixture
def published(tmp_path):
    (tmp_path / "images").mkdir()
    for split in ("train", "test"):
        for number in range(2):
            Image.new("RGB", (8, 6)).save(tmp_path / "images" / f"{split}_{number:05d}.jpg")

    def write(*lines, name="docci_descriptions.jsonlines"):
        path = tmp_path / name
        path.write_text("\n".join(lines), "utf-8")
        return str(path)

    return write


def test_a_line_is_an_image_with_its_description(published):
    path = published(line(0), line(1), line(0, "test"))
    source = open_source(path)
    assert list(source.keys()) == ["train_00000", "train_00001", "test_00000"]
    assert source[1].captions() == ["An indoor view of the 1th red vase. It stands on a table."]
    assert source[2].images["main"].decode().size == (8, 6)
    assert set(source.schema()) == {"images.main", "texts.caption"}
    assert not source.damage
    assert "docci" in formats()


def test_a_split_is_chosen(published):
    path = published(line(0), line(0, "test"), line(1, "test"), line(0, "qual_dev"))
    assert list(open_source(f"{path}:split=test").keys()) == ["test_00000", "test_00001"]
    assert len(open_source(f"{path}:split=train+test")) == 3
    with pytest.raises(InputError, match="unknown split of DOCCI 'tests'"):
        open_source(f"{path}:split=tests")
    with pytest.raises(InputError, match="no line describes an image of qual_test"):
        open_source(f"{path}:split=qual_test")


def test_lines_that_cannot_be_read_are_counted(published):
    path = published(
        line(0),
        line(1, description=None),
        line(1, image_file="../secret.jpg"),
        "{broken",
        line(1),
    )
    source = open_source(path)
    assert list(source.keys()) == ["train_00000", "train_00001"]
    assert sorted(source.damage) == [f"{path}:line {number}" for number in (2, 3, 4)]
    assert list(source.damage.values())[:2] == ["columns", "columns"]


def test_images_are_elsewhere(published, tmp_path):
    path = published(line(0))
    (tmp_path / "images").rename(tmp_path / "photos")
    with pytest.raises(InputError, match="name the folder with :images=FOLDER"):
        open_source(path)
    assert len(open_source(f"{path}:images={tmp_path / 'photos'}")) == 1
