"""DocVQA's questions and files of OCR, on a fixture of their true form."""

import json

import pytest
from PIL import Image

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation.suites.answers import questions


def question(number, image="documents/xnbl0037_1.png", **changed):
    return {
        "questionId": number,
        "question": f"What is the date of form {number}?",
        "question_types": ["form"],
        "image": image,
        "docId": 280,
        "ucsf_document_id": "xnbl0037",
        "ucsf_document_page_no": "1",
        "answers": ["1/8/93", "January 8"],
        "data_split": "train",
    } | changed


def corners(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1 + 2, y1, x0, y1 + 1]


def ocr(unit="pixel", scale=1.0, size=(200, 100)):
    def word(text, *sides):
        return {"boundingBox": corners(*(scale * side for side in sides)), "text": text}

    words = [word("DATE:", 10, 20, 50, 30), word("1/8/93", 60, 20, 90, 30)]
    line = {"boundingBox": corners(10, 20, 90, 30), "text": "DATE: 1/8/93", "words": words}
    page = {
        "page": 1,
        "clockwiseOrientation": 359.9,
        "width": scale * size[0],
        "height": scale * size[1],
        "unit": unit,
        "lines": [line],
    }
    return {"status": "Succeeded", "recognitionResults": [page]}


@pytest.fixture
def published(tmp_path):
    for name in ("documents", "ocr_results"):
        (tmp_path / name).mkdir()
    for name in ("xnbl0037_1", "txpp0227_10"):
        Image.new("L", (200, 100), 255).save(tmp_path / "documents" / f"{name}.png")
        (tmp_path / "ocr_results" / f"{name}.json").write_text(json.dumps(ocr()))

    def write(*rows):
        path = tmp_path / "train_v1.0.json"
        whole = {"dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": "train"}
        path.write_text(json.dumps({**whole, "data": list(rows)}))
        return str(path)

    return write


def test_a_page_has_all_its_questions_and_its_words(published):
    other = "documents/txpp0227_10.png"
    source = open_source(published(question(337), question(338, other), question(339)))
    assert list(source.keys()) == ["documents/xnbl0037_1.png", other]
    sample = source[0]
    assert [each.text for each in questions(sample)] == [
        "What is the date of form 337?",
        "What is the date of form 339?",
    ]
    assert questions(sample)[0].answers == ("1/8/93", "January 8")
    assert [(box.text, box.xyxy) for box in sample.boxes] == [
        ("DATE:", (10, 20, 52, 31)),
        ("1/8/93", (60, 20, 92, 31)),
    ]
    assert sample.captions("ocr") == ["DATE: 1/8/93"]
    assert sample.images["main"].decode().size == (200, 100)
    assert not source.schema()["texts.answer"].optional
    assert "boxes" in source.schema()


def test_the_test_split_has_no_answers_and_files_of_ocr_may_be_missing(published, tmp_path):
    row = question(1)
    del row["answers"]
    source = open_source(published(row))
    assert "texts.answer" not in source.schema()
    (tmp_path / "ocr_results" / "xnbl0037_1.json").unlink()
    with pytest.raises(BadSample) as caught:
        source[0]
    assert caught.value.reason == "missing"
    (tmp_path / "ocr_results" / "txpp0227_10.json").unlink()
    (tmp_path / "ocr_results").rmdir()
    source = open_source(published(question(1)))
    assert "boxes" not in source.schema()
    assert not source[0].boxes


def test_boxes_in_inches_are_scaled_to_the_page(published, tmp_path):
    file = tmp_path / "ocr_results" / "xnbl0037_1.json"
    file.write_text(json.dumps(ocr("inch", scale=1 / 72)))
    found = open_source(published(question(1)))[0].boxes[0].xyxy
    x1 = 50 + 2 * 72
    assert found == pytest.approx((10, 20, x1, 30 + 72))
    file.write_text('{"status": "Failed"}')
    with pytest.raises(BadSample) as caught:
        open_source(published(question(1)))[0]
    assert caught.value.reason == "ocr"


def test_folders_of_other_names(published, tmp_path):
    path = published(question(1))
    (tmp_path / "documents").rename(tmp_path / "spdocvqa_images")
    (tmp_path / "ocr_results").rename(tmp_path / "read")
    source = open_source(f"{path}:ocr={tmp_path / 'read'}")
    assert source[0].images["main"].decode().size == (200, 100)
    assert len(source[0].boxes) == 2
    with pytest.raises(InputError, match="is no folder of OCR files"):
        open_source(f"{path}:ocr={tmp_path / 'nowhere'}")


def test_questions_that_cannot_be_read_are_counted(published):
    odd = question(2, "../up.png")
    path = published(question(1), odd, question(3, question=" "), question(4, answers="a"))
    source = open_source(path)
    assert len(source) == 1
    assert list(source.damage.values()) == ["columns"] * 3
    with pytest.raises(InputError, match="no question in it can be read"):
        open_source(published(odd))
