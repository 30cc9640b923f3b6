"""Files of sentences about classes: names are compared as people write them, and what is wrong is named."""

import json

import pytest

from diptych.data.descriptions import of_classes, read
from diptych.errors import InputError


def written(tmp_path, content):
    path = tmp_path / "told.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_names_match_whatever_their_case_and_gaps(tmp_path):
    path = written(tmp_path, {"American_Bulldog": [" It barks. "], "café au lait": []})
    assert read(path) == {"american bulldog": ("It barks.",), "café au lait": ()}
    assert of_classes(path, ["Café  au lait", "american bulldog"]) == ((), ("It barks.",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "told.json: not JSON"),
        ([], "no sentences of classes"),
        ({}, "no sentences of classes"),
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
    with pytest.raises(InputError, match=r"told.json: there is no class 'sea_lions'; it has 'sea lion'"):
        of_classes(path, ["sea_lions"])
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.json")
