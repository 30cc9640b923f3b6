"""Amazon Textract's words of a page, on fixtures of their true form, and InfographicVQA with them."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.images import FileImage
from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.data.sources._textract import read_words
from diptych.errors import InputError

SIZE = (400, 1000)
VAST = {"Left": 10**400, "Top": 0, "Width": 0, "Height": 0}
PLACES = {"Pinterest": (0.25, 0.1, 0.2, 0.02), "70%": (0.5, 0.1, 0.1, 0.02)}


def block(kind, number, text=None, sides=(0.0, 0.0, 1.0, 1.0), **changed):
    """A block as the service writes it."""
    left, top, width, height = sides
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    found = {
        "BlockType": kind,
        "Geometry": {
            "BoundingBox": {"Width": width, "Height": height, "Left": left, "Top": top},
            "Polygon": [{"X": x, "Y": y} for x, y in corners],
        },
        "Id": f"f7d1e5b6-{number}",
    }
    if text is not None:
        found |= {"Confidence": 98.6, "Text": text}
    return found | changed


def blocks(places=PLACES):
    """The blocks of a page of one line, by kind."""
    words = [block("WORD", at, text, sides) for at, (text, sides) in enumerate(places.items())]
    children = [{"Type": "CHILD", "Ids": [word["Id"] for word in words]}]
    line = block("LINE", 90, " ".join(places), (0.25, 0.1, 0.35, 0.02), Relationships=children)
    page = block("PAGE", 91, Relationships=[{"Type": "CHILD", "Ids": [line["Id"]]}])
    return {"PAGE": [page], "LINE": [line], "WORD": words}


def answered(found):
    """The same blocks as the service answers."""
    return {
        "DocumentMetadata": {"Pages": 1},
        "Blocks": [each for kind in ("PAGE", "LINE", "WORD") for each in found[kind]],
        "DetectDocumentTextModelVersion": "1.0",
    }


def question(number=65718, **changed):
    return {
        "questionId": number,
        "question": "Which social platform has heavy female audience?",
        "image_local_name": "37313.jpeg",
        "ocr_output_file": "37313.json",
        "answers": ["pinterest"],
        "data_split": "train",
    } | changed


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page without words on it."""
    path = tmp_path_factory.mktemp("page") / "37313.jpeg"
    Image.new("RGB", SIZE, "white").save(path)
    return path


@pytest.fixture
def published(tmp_path, page):
    """A function that writes questions, images and what was read in them, as published."""
    for name in ("infographicsvqa_images", "infographicsvqa_ocr"):
        (tmp_path / name).mkdir()
    for name in ("37313.jpeg", "20471.jpeg"):
        (tmp_path / "infographicsvqa_images" / name).write_bytes(page.read_bytes())

    def write(*rows, ocr):
        for name, found in ocr.items():
            (tmp_path / "infographicsvqa_ocr" / name).write_text(json.dumps(found), "utf-8")
        path = tmp_path / "infographicsVQA_train_v1.0.json"
        whole = {"dataset_name": "infographicVQA", "dataset_version": "v1.0"}
        path.write_text(json.dumps({**whole, "data": list(rows)}), "utf-8")
        return str(path)

    return write


def read(found, page, folder):
    path = folder / "37313.json"
    path.write_text(json.dumps(found), "utf-8")
    return read_words(path, FileImage(str(page)))


@pytest.mark.parametrize("form", [blocks, lambda: answered(blocks())])
def test_words_have_boxes_in_pixels_and_lines_are_the_text(form, page, tmp_path):
    boxes, text = read(form(), page, tmp_path)
    assert [box.text for box in boxes] == ["Pinterest", "70%"]
    assert boxes[0].xyxy == pytest.approx((100, 100, 180, 120))
    assert boxes[1].xyxy == pytest.approx((200, 100, 240, 120))
    assert text == "Pinterest 70%"


def test_without_lines_the_words_are_the_text_and_other_pages_are_left_out(page, tmp_path):
    found = blocks()
    found["WORD"].append(block("WORD", 7, "later", Page=2))
    found["WORD"].append(block("WORD", 8, " "))
    del found["LINE"]
    boxes, text = read(found, page, tmp_path)
    assert len(boxes) == 2
    assert text == "Pinterest 70%"


def test_a_box_that_reaches_a_little_beyond_its_page_is_cut(page, tmp_path):
    [box], _ = read(blocks({"wide": (-0.01, 0.99, 1.02, 0.03)}), page, tmp_path)
    assert box.xyxy == pytest.approx((0, 990, 400, 1000))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (blocks({"pixels": (100, 100, 80, 20)}), "no share of the page"),
        (blocks({"turned": (0.5, 0.5, -0.1, 0.1)}), "no share of the page"),
        ({"recognitionResults": []}, "neither Blocks nor WORD"),
        ({"WORD": [{"Text": "a"}]}, "Geometry"),
        ({"WORD": [block("WORD", 1, 5)]}, "no answer of Textract"),
        ({"Blocks": [{}]}, "BlockType"),
        ({"WORD": [block("WORD", 1, "a", Geometry={"BoundingBox": VAST})]}, "too large"),
        ([], "neither Blocks nor WORD"),
        (None, "no answer of Textract"),
    ],
)
def test_files_of_another_form_are_damage(found, said, page, tmp_path):
    with pytest.raises(BadSample, match=said) as error:
        read(found, page, tmp_path)
    assert error.value.reason == "ocr"


WHOLE = json.dumps(answered(blocks())).encode()


@settings(deadline=None, max_examples=60)
@given(at=st.integers(0, len(WHOLE) - 1), by=st.binary(max_size=3), cut=st.booleans())
def test_a_damaged_file_is_read_or_told_of(at, by, cut, page):
    damaged = WHOLE[:at] + by + (b"" if cut else WHOLE[at + 1 :])
    path = Path(page.parent, "damaged.json")
    path.write_bytes(damaged)
    try:
        boxes, text = read_words(path, FileImage(str(page)))
    except BadSample as error:
        found = error.reason
    else:
        found = type(text).__name__
        sides = [box.xyxy for box in boxes]
        assert all(0 <= x0 <= x1 <= SIZE[0] for x0, _, x1, _ in sides)
        assert all(0 <= y0 <= y1 <= SIZE[1] for _, y0, _, y1 in sides)
    assert found in ("ocr", "str")


def test_infographics_have_their_words_where_there_is_a_file(published):
    rows = (question(), question(2, image_local_name="20471.jpeg", ocr_output_file="20471.json"))
    source = open_source(published(*rows, ocr={"37313.json": blocks()}))
    first, second = source
    assert [box.text for box in first.boxes] == ["Pinterest", "70%"]
    assert first.captions("ocr") == ["Pinterest 70%"]
    assert first.captions("answer") == ["pinterest"]
    assert second.captions("ocr") == []
    assert not second.boxes
    assert source.schema()["texts.ocr"].optional
    assert source.schema()["boxes"].optional


def test_the_file_is_named_by_the_row_or_as_the_image(published):
    row = question()
    del row["ocr_output_file"]
    bad = question(3, ocr_output_file="../secret.json")
    source = open_source(published(row, bad, ocr={"37313.json": blocks()}))
    assert source[0].captions("ocr") == ["Pinterest 70%"]
    assert list(source.damage.values()) == ["columns"]


def test_a_damaged_file_is_a_bad_sample_and_a_missing_folder_is_refused(published, tmp_path):
    path = published(question(), ocr={"37313.json": {"WORD": 3}})
    with pytest.raises(BadSample, match="no answer of Textract"):
        open_source(path)[0]
    with pytest.raises(InputError, match="is no folder of OCR files; check :ocr="):
        open_source(f"{path}:ocr={tmp_path}/nowhere")
    (tmp_path / "none").mkdir()
    assert not open_source(f"{path}:ocr={tmp_path}/none")[0].boxes
