"""ChartQA's and InfographicVQA's questions, on fixtures of their true form."""

import json

import pytest
from PIL import Image

from diptych.data.sources import formats, open_source
from diptych.errors import InputError


def chart(**changed):
    return {
        "imgname": "41699051005347.png",
        "query": "How many food item is shown in the bar graph?",
        "label": "14",
    } | changed


def infographic(**changed):
    return {
        "questionId": 65718,
        "question": "Which social platform has heavy female audience?",
        "image_local_name": "37313.jpeg",
        "image_url": "https://blog.example.org/wp-content/2014/08/37313.jpeg",
        "ocr_output_file": "37313.json",
        "answers": ["pinterest", "Pinterest"],
        "data_split": "train",
    } | changed


def infographics(*rows):
    return {
        "dataset_name": "infographicVQA",
        "dataset_version": "v1.0",
        "dataset_split": "train",
        "data": list(rows),
    }


@pytest.fixture
def write(tmp_path):
    """A function that writes a file as published beside its images."""

    def written(name, content):
        for folder, image in (
            ("png", "41699051005347.png"),
            ("infographicsvqa_images", "37313.jpeg"),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("RGB", (8, 6)).save(tmp_path / folder / image)
        path = tmp_path / name
        path.write_text(json.dumps(content), "utf-8")
        return str(path)

    return written


def test_charts_have_a_question_and_its_answer(write):
    rows = [chart(), chart(query="Is the sum above 3?", label="Yes"), chart(label=2.5)]
    source = open_source(write("train_human.json", rows))
    assert list(source.keys()) == [f"41699051005347.png#{at}" for at in (1, 2, 3)]
    sample = source[1]
    assert (sample.captions("question"), sample.captions("answer")) == (
        ["Is the sum above 3?"],
        ["Yes"],
    )
    assert source[2].captions("answer") == ["2.5"]
    assert sample.images["main"].decode().size == (8, 6)
    assert set(source.schema()) == {"images.main", "texts.question", "texts.answer"}


def test_infographics_have_a_question_and_its_answers(write):
    test = infographic(questionId=2, answers=None)
    source = open_source(
        write("infographicsVQA_train_v1.0.json", infographics(infographic(), test))
    )
    assert list(source.keys()) == ["65718", "2"]
    assert source[0].captions("answer") == ["pinterest", "Pinterest"]
    assert source[1].captions("answer") == []
    assert source.schema()["texts.answer"].optional
    blind = open_source(write("test.json", infographics(test)))
    assert "texts.answer" not in blind.schema()


def test_one_format_claims_each_file(write):
    from diptych.spec import parse

    for name, content, wanted in (
        ("train_augmented.json", [chart()], "chartqa"),
        ("infographicsVQA_val_v1.0.json", infographics(infographic()), "infovqa"),
    ):
        spec = parse(write(name, content))
        claiming = [
            kind for kind, module in formats().items()
            if module.claims(spec) and not getattr(module, "ANY", False)
        ]  # fmt: skip
        assert claiming == [wanted]


def test_rows_that_cannot_be_read_are_counted(write):
    bad = [chart(query=3), chart(imgname="../x.png"), chart(label=["a"]), "row", chart(query=" ")]
    source = open_source(write("train_human.json", [chart(), *bad]))
    assert len(source) == 1
    assert list(source.damage.values()) == ["columns"] * 5
    bad = [infographic(answers="x"), infographic(questionId=None), 7]
    source = open_source(write("i.json", infographics(infographic(), *bad)))
    assert list(source.damage.values()) == ["columns"] * 3


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train_human.json", [chart(query=3)], "no entry has an image with a question"),
        ("train_human.json", {"a": chart()}, "no list of questions"),
        ("i.json", {"question": "", "image_local_name": 1}, "no list of questions, data"),
        ("train_human.json", [chart(imgname="lost.png")], "first image, lost.png, is not near it"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(write, name, content, told):
    with pytest.raises(InputError, match=told):
        open_source(write(name, content))
