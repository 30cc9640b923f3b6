"""Files of sentences about classes: names are compared as people write them, and what is wrong is
named."""

import json

import pytest

from diptych.data import descriptions
from diptych.data.descriptions import of_classes, read
from diptych.errors import InputError


def written(tmp_path, content):
    path = tmp_path / "told.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_names_match_whatever_their_case_and_gaps(tmp_path):
    path = written(tmp_path, {"American_Bulldog": [" It barks. "], "café-au-lait\n": []})
    assert read(path) == {"american bulldog": ("It barks.",), "café au lait": ()}
    assert of_classes(path, ["Café  au lait", "american bulldog"]) == ((), ("It barks.",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "told.json: not JSON"),
        ([], "no sentences by class"),
        ({}, "no sentences by class"),
        ({"cat": "It purrs."}, "the class 'cat' has no list of sentences"),
        ({"cat": ["It purrs.", 3]}, "the class 'cat' has no list of sentences"),
        ({"cat": [" "]}, "the class 'cat' has no list of sentences"),
        ({"sea_lion": [], "Sea lion": []}, "the class 'Sea lion' stands there twice"),
    ],
)
def test_another_form_is_told_with_its_place(content, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read(written(tmp_path, content))


def test_a_class_or_a_file_that_is_not_there_is_named(tmp_path):
    path = written(tmp_path, {"sea lion": ["It swims."]})
    with pytest.raises(
        InputError, match=r"told.json: there is no class 'sea_lions'; it has 'sea lion'"
    ):
        of_classes(path, ["sea_lions"])
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.json")


def test_a_text_that_a_name_has_twice_is_taken_once_and_other_keys_stay_as_they_are(tmp_path):
    path = written(
        tmp_path, {"001.Wren/a-1.jpg": ["small", "brown ", "small"], "001.Wren/b.jpg": ["small"]}
    )
    assert descriptions.read_lists(path) == {
        "001.Wren/a-1.jpg": ("small", "brown"),
        "001.Wren/b.jpg": ("small",),
    }
    with pytest.raises(InputError, match="the image 'a': number 2 is 3|the image 'a' has no list"):
        descriptions.read_lists(written(tmp_path, {"a": ["x", 3]}), "image")


def test_what_is_written_is_read(tmp_path):
    texts = {"owl": ("grey, ärmlich", "young"), "ani": ("black",)}
    descriptions.write(tmp_path / "bank.json", texts)
    assert read(tmp_path / "bank.json") == texts
    assert descriptions.bank(str(tmp_path / "bank.json"), ["Ani", "Owl"]) == (
        ("black",),
        ("grey, ärmlich", "young"),
    )


def test_any_callable_makes_a_bank_and_is_asked_once_a_name():
    asked = []

    def model(name):
        asked.append(name)
        yield from (f"a male {name}", f"a female {name} ", f"a male {name}")

    assert descriptions.generate(["finch", "wren"], model)["wren"] == (
        "a male wren",
        "a female wren",
    )
    assert asked == ["finch", "wren"]
    with pytest.raises(
        InputError, match="what was said of the class 'owl' has no list of sentences but 'grey'"
    ):
        descriptions.generate(["owl"], lambda name: "grey")


def test_templates_say_the_same_of_all_classes():
    assert descriptions.bank("plain", ["cat", "dog"]) == (
        ("a photo of a cat.",),
        ("a photo of a dog.",),
    )
    with pytest.raises(InputError, match="unknown templates 'plian'; did you mean 'plain'"):
        descriptions.bank("plian", ["cat"])


def test_a_bank_says_something_of_every_class(tmp_path):
    with pytest.raises(
        InputError, match=r"told\.json: the class 'owl' has no sentence; write at least one"
    ):
        descriptions.bank(str(written(tmp_path, {"owl": [], "ani": ["black"]})), ["ani", "owl"])


def test_summaries_come_back_from_their_file(tmp_path):
    texts = {"owl": ("It is a grey owl.", "It is young."), "ani": ("It is young.",)}
    short = descriptions.shorten(texts, lambda text: text[6:-1])
    assert short == {"It is a grey owl.": "a grey owl", "It is young.": "young"}
    assert descriptions.read_summaries(written(tmp_path, short)) == short
    with pytest.raises(InputError, match="no summaries; write"):
        descriptions.read_summaries(written(tmp_path, {"a": ["b"]}))
    with pytest.raises(
        InputError,
        match="the summary of a text of the class 'owl' has no list of sentences: number 1",
    ):
        descriptions.shorten({"owl": ["a grey owl"]}, lambda text: "")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match="not JSON"):
        read(tmp_path)
