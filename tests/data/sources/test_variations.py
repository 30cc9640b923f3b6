"""The published form of variations, with real damage."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError


def row(name, origin="a.jpg", item="cat", itm=(1.0, 2.0), **changes):
    return {
        "name": name,
        "origin_name": origin,
        "item": item,
        "source": f"/data/{origin}",
        "captions": ["a red fox sleeps", "a fox"],
        "itm_score": list(itm),
        "iva_score": 21.5,
        "short": "a red fox",
        "desc": "a red fox with a long tail",
        **changes,
    }


def write(folder, rows, images=("0.png", "1.png", "2.png")):
    for name in images:
        Image.new("RGB", (4, 4)).save(folder / name)
    path = folder / "gnm.json"
    path.write_text(json.dumps(rows))
    return str(path)


def test_variations_have_their_item_and_their_scores(tmp_path):
    rows = [
        row("0.png"),
        row("1.png", itm=(0.5, -1.5)),
        row("2.png", item="mat"),
        row("0.png", "b.jpg"),
    ]
    source = open_source(write(tmp_path, rows))
    assert source.labels("item").tolist() == [0, 0, 1, 2]
    assert source.labels("image").tolist() == [0, 0, 0, 1]
    assert source.labels("itm").tolist() == [1.5, -0.5, 1.5, 1.5]
    sample = source[1]
    assert sample.captions() == ["a red fox sleeps", "a fox"]
    assert sample.captions("short") == ["a red fox"]
    assert sample.labels["iva"] == 21.5
    assert sample.images["main"].decode().size == (4, 4)
    assert {name: field.kind for name, field in source.schema().items()}["labels.itm"] == "float"


def test_images_may_lie_elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path, [row("0.png")], images=())
    Image.new("RGB", (4, 4)).save(tmp_path / "elsewhere" / "0.png")
    with pytest.raises(
        InputError, match="its first image, 0.png, is not near it; .*:images=FOLDER"
    ):
        open_source(path)
    assert open_source(f"{path}:images={tmp_path / 'elsewhere'}")[0].images["main"].decode()


@pytest.mark.parametrize(
    "broken",
    [
        {"captions": []},
        {"captions": "a fox"},
        {"itm_score": ["high"]},
        {"iva_score": None},
        {"name": "../0.png"},
        {"name": "/etc/passwd"},
        {"item": 3},
    ],
)
def test_rows_that_lack_something_are_counted(tmp_path, broken):
    source = open_source(write(tmp_path, [row("0.png"), {**row("1.png"), **broken}]))
    assert len(source) == 1
    assert list(source.damage.values()) == ["columns"]


def test_a_file_without_a_good_row_is_refused(tmp_path):
    with pytest.raises(InputError, match="no variation has a name"):
        open_source(write(tmp_path, [row("0.png", captions=[])]))
