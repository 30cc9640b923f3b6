"""Classified tiles of one image file."""

import json

import pytest
from PIL import Image

from diptych.data.sample import BadSample, Source
from diptych.data.sources import open_source
from diptych.errors import InputError

LAYOUT = {"tile": 4, "columns": 2, "classes": ["cat", "dog"], "labels": [1, 0, 1]}


@pytest.fixture
def tiles(tmp_path):
    """`tiles(**layout)` writes three tiles, each in a grey of its own, and their list."""

    def write(size=(8, 8), **layout):
        image = Image.new("RGB", size)
        for at, corner in enumerate([(0, 0), (4, 0), (0, 4)]):
            image.paste((100 + at,) * 3, (*corner, corner[0] + 4, corner[1] + 4))
        image.save(tmp_path / "train.png")
        path = tmp_path / "train.json"
        path.write_text(json.dumps(LAYOUT | layout))
        return path

    return write


def test_each_tile_is_a_sample(tiles):
    source = open_source(str(tiles()))
    assert isinstance(source, Source)
    assert source.schema()["labels.class"].classes == ("cat", "dog")
    assert source.labels("class").tolist() == [1, 0, 1]
    assert list(source.keys()) == [sample.key for sample in source] == ["0", "1", "2"]
    for at, sample in enumerate(source):
        image = sample.images["main"].decode()
        assert (image.size, image.getcolors()) == ((4, 4), [(16, (100 + at,) * 3)])
        assert sample.images["main"].read().startswith(b"\x89PNG")
    assert source[-1].key == "2"


def test_a_file_that_is_gone_is_a_damaged_sample(tiles, tmp_path):
    source = open_source(str(tiles()))
    (tmp_path / "train.png").unlink()
    with pytest.raises(BadSample, match="missing"):
        source[0].images["main"].decode()


def test_without_an_image_of_its_name_the_file_is_another_format(tiles, tmp_path):
    path = tiles()
    (tmp_path / "train.png").unlink()
    with pytest.raises(InputError, match="no list 'images'"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"tile": "4"}, "'tile' is '4', not a whole number; beside an image of its name"),
        ({"labels": []}, "no tiles"),
        ({"columns": 0}, "no tiles"),
        ({"labels": [1, 2]}, "label 2 is none of its 2 classes"),
        ({"labels": [0] * 5}, "8 x 8 pixels hold no 5 tiles of 4 pixels in 2 columns"),
        ({"columns": 3}, "hold no 3 tiles"),
        ({"size": (7, 8)}, "7 x 8 pixels hold no 3 tiles"),
    ],
)
def test_a_list_that_does_not_fit_is_told(tiles, layout, message):
    with pytest.raises(InputError, match=message):
        open_source(str(tiles(**layout)))


def test_options_and_damaged_files_are_told(tiles, tmp_path):
    path = tiles()
    with pytest.raises(InputError, match="unknown option"):
        open_source(f"{path}:images=x")
    (tmp_path / "train.png").write_bytes(b"<html>")
    with pytest.raises(InputError, match="html: a web page"):
        open_source(str(path))
    path.write_text("[1]")
    with pytest.raises(InputError, match="it is no object"):
        open_source(str(path))


def test_the_pack_reads(data_pack):
    source = open_source(str(data_pack("cifar10-subset") / "test.json"))
    assert len(source) == 1000
    assert source[999].images["main"].decode().size == (32, 32)
    assert (source.labels("class") == 0).sum() == 100
