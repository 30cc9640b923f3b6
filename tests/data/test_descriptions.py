"""Banks of descriptions: files in the form that they come in, callables, templates, and what is told of bad ones."""

import json

import pytest

from diptych.data import descriptions
from diptych.errors import InputError


def file(folder, content):
    path = folder / "bank.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_names_lose_dashes_and_line_breaks_and_texts_their_doubles(tmp_path):
    path = file(tmp_path, {"black-footed-albatross\n": [" a dark bird", "a white bird\n", "a dark bird"], "ani": ["x"]})
    assert descriptions.read(path) == {"black footed albatross": ("a dark bird", "a white bird"), "ani": ("x",)}
    assert list(descriptions.read_lists(path)) == ["black-footed-albatross\n", "ani"]


def test_classes_are_found_by_their_words_in_the_order_asked_for(tmp_path):
    spec = str(file(tmp_path, {"black-footed-albatross\n": ["dark"], "groove-billed-ani\n": ["glossy"]}))
    names = ("Groove billed Ani", "Black_footed_Albatross")
    assert descriptions.describe(spec, names) == [("glossy",), ("dark",)]
    with pytest.raises(InputError, match=r"bank\.json has no texts of the class 'Grove billed Ani' "
                                         r"\(the nearest that it has is 'groove billed ani'\) and 1 more"):  # fmt: skip
        descriptions.describe(spec, ["Grove billed Ani", "Owl", "Black footed Albatross"])


def test_what_is_written_is_read(tmp_path):
    bank = {"owl": ("grey, ärmlich", "young"), "ani": ("black",)}
    descriptions.write(tmp_path / "bank.json", bank)
    assert descriptions.read(tmp_path / "bank.json") == bank


def test_any_callable_makes_a_bank_and_is_asked_once_a_name():
    asked = []

    def model(name):
        asked.append(name)
        yield from (f"a male {name}", f"a female {name} ", f"a male {name}")

    assert descriptions.generate(["finch", "wren"], model)["wren"] == ("a male wren", "a female wren")
    assert asked == ["finch", "wren"]


def test_templates_say_the_same_of_all_classes():
    assert descriptions.describe("plain", ["cat", "dog"]) == [("a photo of a cat.",), ("a photo of a dog.",)]
    with pytest.raises(InputError, match="unknown templates 'plian'; did you mean 'plain'"):
        descriptions.describe("plian", ["cat"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ([["a"]], "no lists of texts; write"),
        ({}, "no lists of texts"),
        ({"owl": "grey"}, r"'owl' of .*bank\.json: 'grey' is no list of texts"),
        ({"owl": {"a": 1}}, "'owl' of .*is no list of texts"),
        ({"owl": []}, r"'owl' of .*bank\.json: there is no text; give at least one"),
        ({"ani": ["x"], "owl": ["grey", " "]}, r"'owl' of .*bank\.json: text 2 is ' '"),
        ({"owl": [3]}, "'owl' of .*: text 1 is 3"),
        ({"house-wren": ["a"], "House Wren\n": ["b"]}, r"the classes 'house-wren' and 'House Wren\\n' have one name"),
    ],
)
def test_errors_name_file_and_class(tmp_path, content, said):
    with pytest.raises(InputError, match=said) as caught:
        descriptions.read(file(tmp_path, content))
    assert "bank.json" in str(caught.value)


def test_a_path_that_is_no_file_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        descriptions.read(tmp_path / "none.json")
    with pytest.raises(InputError, match="not a file that can be read"):
        descriptions.read(tmp_path)


def test_a_callable_that_says_nothing_is_told_with_the_class():
    with pytest.raises(InputError, match="what was said of the class 'owl': there is no text"):
        descriptions.generate(["owl"], lambda name: [])
    with pytest.raises(InputError, match="the class 'owl': 'grey' is no list"):
        descriptions.generate(["owl"], lambda name: "grey")
    with pytest.raises(InputError, match="the summary of a text of the class 'owl': text 1 is ''"):
        descriptions.shorten({"owl": ["a grey owl"]}, lambda text: "")


def test_summaries_come_back_from_their_file(tmp_path):
    bank = {"owl": ("It is a grey owl.", "It is young."), "ani": ("It is young.",)}
    short = descriptions.shorten(bank, lambda text: text[6:-1])
    assert short == {"It is a grey owl.": "a grey owl", "It is young.": "young"}
    assert descriptions.read_summaries(file(tmp_path, short)) == short
    with pytest.raises(InputError, match="no summaries; write"):
        descriptions.read_summaries(file(tmp_path, {"a": ["b"]}))
