"""NLVR2, on fixtures of its true form."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation.suites.answers import questions


def row(identifier, label, **more):
    return {
        "validation": {"128": label, "214": label},
        "sentence": "Both images contain exactly two birds. ",
        "left_url": "https://example.org/left.jpg",
        "writer": "149",
        "label": label,
        "right_url": "https://example.org/right.jpg",
        "identifier": identifier,
        "synset": "bird",
        "query": "two birds0",
        **more,
    }


def write(path, rows):
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def put(folder, name, grey):
    folder.mkdir(parents=True, exist_ok=True)
    for side in (0, 1):
        Image.new("RGB", (4, 4), (grey + side,) * 3).save(folder / f"{name}-img{side}.png")


DEV = [row("dev-850-0-0", "False"), row("dev-850-1-0", "True"), row("dev-850-1-1", "True")]


@pytest.mark.parametrize("below", ["", "dev"])
def test_a_row_is_a_question_about_two_images(tmp_path, below):
    for number in (0, 1):
        put(tmp_path / "images" / below, f"dev-850-{number}", 10 * number)
    source = open_source(write(tmp_path / "dev.json", DEV))
    assert list(source.keys()) == ["dev-850-0-0", "dev-850-1-0", "dev-850-1-1"]
    sample = source[2]
    pixels = [sample.images[role].decode().getpixel((0, 0))[0] for role in ("main", "page2")]
    assert pixels == [10, 11]
    [question] = questions(sample, choose=True)
    assert question.text == "Both images contain exactly two birds."
    assert (question.answers, question.choices) == (("true",), ("false", "true"))
    assert source.labels("true").tolist() == [0, 1, 1]
    assert source[0].labels == {"true": 0}
    assert {"images.main", "images.page2"} <= source.schema().keys()


def test_images_of_train_lie_in_numbered_folders(tmp_path):
    rows = [row("train-10171-2-0", "True", directory=75), row("train-8-0-0", "False", directory=3)]
    put(tmp_path / "elsewhere/train/75", "train-10171-2", 0)
    put(tmp_path / "elsewhere/train/3", "train-8-0", 50)
    file = write(tmp_path / "train.json", rows)
    source = open_source(f"{file}:images={tmp_path}/elsewhere")
    assert source[1].images["page2"].decode().getpixel((0, 0)) == (51, 51, 51)
    assert "images.main" not in open_source(file).schema()  # they are in no usual folder
    with pytest.raises(InputError, match=r"train-10171-2-img0\.png, is not in"):
        open_source(f"{file}:images={tmp_path}")


def test_damaged_rows_are_counted(tmp_path):
    bad = [
        row("../../etc-1-1-1", "True"),
        row("dev-1-0-0", "Maybe"),
        row("dev-1-0-0", "True", sentence=" "),
        row("dev-1-0-0", "True", directory="../.."),
    ]
    file = write(tmp_path / "dev.json", [DEV[0], "{", *bad, DEV[0]])
    source = open_source(file)
    assert list(source.keys()) == ["dev-850-0-0#1", "dev-850-0-0#7"]
    assert list(source.damage.values()) == ["json", *["columns"] * 4]
    only = write(tmp_path / "test1.json", bad)
    with pytest.raises(InputError, match="no line is"):
        open_source(only)
