"""FUNSD's forms, on a fixture of their true form."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError

FORM = [
    {
        "box": [292, 91, 376, 175],
        "text": "FAX COVER",
        "label": "header",
        "words": [
            {"box": [292, 91, 330, 110], "text": "FAX"},
            {"box": [335, 91, 376, 110], "text": "COVER"},
        ],
        "linking": [[0, 1]],
        "id": 0,
    },
    {
        "box": [80, 120, 120, 140],
        "text": "TO:",
        "label": "question",
        "words": [{"box": [80, 120, 120, 140], "text": "TO:"}, {"box": [0, 0, 0, 0], "text": " "}],
        "linking": [[0, 1], [1, 3], [1, 2]],
        "id": 1,
    },
    {
        "box": [130, 120, 200, 140],
        "text": "George Baroody",
        "label": "answer",
        "words": [
            {"box": [130, 120, 160, 140], "text": "George"},
            {"box": [165, 120, 200, 140], "text": "Baroody"},
        ],
        "linking": [[1, 2]],
        "id": 2,
    },
    {
        "box": [130, 145, 200, 160],
        "text": "New York",
        "label": "answer",
        "words": [{"box": [130, 145, 200, 160], "text": "New York"}],
        "linking": [[1, 3]],
        "id": 3,
    },
    {"box": [1, 2, 3, 4], "text": "", "label": "other", "words": [], "linking": [], "id": 4},
]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "training_data"
    for name in ("annotations", "images"):
        (place / name).mkdir(parents=True)
    (place / "annotations" / "82092117.json").write_text(json.dumps({"form": FORM}))
    Image.new("L", (754, 1000), 255).save(place / "images" / "82092117.png")
    return place


def test_a_form_has_its_words_and_its_keys_with_their_values(folder):
    source = open_source(f"{folder}/")
    [sample] = [source[at] for at in range(len(source))]
    assert list(source.keys()) == [sample.key] == ["82092117"]
    assert [box.text for box in sample.boxes] == [
        *("FAX", "COVER", "TO:", "George", "Baroody", "New York")
    ]
    assert sample.boxes[0].xyxy == (292, 91, 330, 110)
    classes = source.schema()["boxes"].classes
    assert [classes[box.label] for box in sample.boxes][:4] == ["header", "header", "question", "answer"]  # fmt: skip
    assert sample.captions("ocr") == ["FAX COVER TO: George Baroody New York"]
    assert sample.captions("question") == ["TO:"]
    assert sample.captions("answer") == ["George Baroody New York"]
    assert sample.images["main"].decode().size == (754, 1000)


def test_boxes_may_be_those_of_entities(folder):
    sample = open_source(f"{folder}/:boxes=entities")[0]
    assert [box.text for box in sample.boxes] == ["FAX COVER", "TO:", "George Baroody", "New York"]
    with pytest.raises(InputError, match="boxes"):
        open_source(f"{folder}/:boxes=letters")


def test_damaged_forms_are_counted_and_a_folder_of_them_alone_is_refused(folder):
    (folder / "annotations" / "9.json").write_text('{"form": [{"label": "odd"}]}')
    (folder / "annotations" / "99.json").write_text('{"form": []')
    (folder / "annotations" / "999.json").write_text('{"form": []}')
    for name in ("9", "99"):
        Image.new("L", (9, 9)).save(folder / "images" / f"{name}.png")
    source = open_source(f"{folder}/")
    assert len(source) == 1
    assert sorted(source.damage.values()) == ["columns", "json", "missing"]
    (folder / "images" / "82092117.png").unlink()
    with pytest.raises(InputError, match="no page in annotations/ has both"):
        open_source(f"{folder}/")
