"""CORD's receipts, on a fixture of their true form."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source


def word(text, x0, y0, x1, y1, key=0):
    quad = {"x2": x1, "y3": y1 + 1, "x3": x1 + 2, "y4": y1, "x1": x0, "y1": y0, "x4": x0 + 1, "y2": y0}  # fmt: skip
    return {"quad": quad, "is_key": key, "row_id": 1, "text": text}


RECEIPT = {
    "valid_line": [
        {
            "words": [word("REAL", 300, 500, 360, 520), word("GANACHE", 365, 500, 450, 520)],
            "category": "menu.nm",
            "group_id": 3,
            "sub_group_id": 0,
        },
        {
            "words": [word("45,500", 700, 900, 780, 930), word(" ", 0, 0, 1, 1)],
            "category": "total.total_price",
            "group_id": 4,
            "sub_group_id": 0,
        },
    ],
    "meta": {
        "version": "0.2.1",
        "split": "train",
        "image_id": 0,
        "image_size": {"width": 864, "height": 1296},
    },
    "roi": {},
    "repeating_symbol": [],
    "dontcare": [],
}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "CORD" / "train"
    for name in ("json", "image"):
        (place / name).mkdir(parents=True)
    (place / "json" / "receipt_00000.json").write_text(json.dumps(RECEIPT))
    Image.new("RGB", (864, 1296), "white").save(place / "image" / "receipt_00000.png")
    return place


def test_a_receipt_has_its_words_with_their_categories(folder):
    source = open_source(f"{folder}/")
    sample = source[0]
    assert list(source.keys()) == ["receipt_00000"]
    assert [box.text for box in sample.boxes] == ["REAL", "GANACHE", "45,500"]
    assert sample.boxes[0].xyxy == (300, 500, 362, 521)
    assert source.schema()["boxes"].classes == ("menu.nm", "total.total_price")
    assert [box.label for box in sample.boxes] == [0, 0, 1]
    assert sample.captions("ocr") == ["REAL GANACHE\n45,500"]
    assert "texts.question" not in source.schema()
    assert sample.images["main"].decode().size == (864, 1296)


def test_boxes_may_be_those_of_lines(folder):
    sample = open_source(f"{folder}/:boxes=lines")[0]
    assert [(box.text, box.xyxy) for box in sample.boxes] == [
        ("REAL GANACHE", (300, 500, 452, 521)),
        ("45,500", (700, 900, 782, 931)),
    ]
