"""Emotions with explanations of a sample, and of a written text."""

import pytest

from diptych.data.emotions import felt, split
from diptych.data.sample import BadSample, Sample, Text


def sample(*texts):
    return Sample(key="a", source="", texts=[Text(text=text, role=role) for role, text in texts])


def test_pairs_are_those_of_the_order_in_any_arrangement():
    mixed = sample(
        ("emotion", "awe"),
        ("explanation", "vast"),
        ("caption", "a lake"),
        ("emotion", "fear"),
        ("explanation", "deep"),
    )
    assert felt(mixed) == [("awe", "vast"), ("fear", "deep")]
    with pytest.raises(BadSample, match="1 emotions and 0 explanations"):
        felt(sample(("emotion", "awe")))
    with pytest.raises(BadSample, match="unpaired"):
        felt(sample(("caption", "a lake")))


def test_a_text_is_split_at_its_first_joint_alone():
    assert split("something else because it is odd because of her", "because") == (
        "something else",
        "it is odd because of her",
    )
    assert split("becauseless", "because") == ("becauseless", "")
    assert split(" because it is", "because") == ("", "it is")
