"""Names in texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.matcher import Matcher, replaced

NAMES = ["cat", "hot dog", "dog", "butterfly", "bus", "traffic light"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A cat sat.", ["cat"]),
        ("cats and dogs", ["cat", "dog"]),
        ("a caterpillar, a dogma", []),
        ("two hot dogs by the dog", ["hot dog", "dog"]),
        ("Butterflies over buses", ["butterfly", "bus"]),
        ("a traffic-light", ["traffic light"]),
        ("the CAT and the cat", ["cat"]),
        ("", []),
    ],
)
def test_names_are_found_as_whole_words(text, found):
    assert Matcher(NAMES).find(text) == found


def test_without_plurals_and_names_nothing_more_is_found():
    assert Matcher(NAMES, plural=False).find("cats and a dog") == ["dog"]
    assert Matcher([]).find("a cat") == []
    assert Matcher(["a.b"]).find("axb, a.b") == ["a.b"]


@given(st.text(max_size=60))
def test_any_text_is_read(text):
    assert set(Matcher(NAMES).find(text)) <= set(NAMES)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("a man with a big brown cat", "cat", "a man with a red fox"),
        ("The small dogs of the town", "dog", "a red fox of the town"),
        ("cats sleep", "cat", "a red fox sleep"),
        ("a man and cat", "cat", "a man and a red fox"),
        ("a dog near the tree", "tree", "a dog near a red fox"),
        ("a cat, then a cat", "cat", "a red fox, then a cat"),
        ("a caterpillar", "cat", None),
        ("", "cat", None),
    ],
)
def test_the_smallest_phrase_with_the_name_is_replaced(text, name, expected):
    assert replaced(text, name, "a red fox") == expected


def test_what_takes_its_place_is_plain_text():
    assert replaced("a cat", "cat", r"a \1 fox") == r"a \1 fox"
