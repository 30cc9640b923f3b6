"""Texts varied by words: which operations there are, how often each, and that nothing ends
empty."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.eda import (
    STOP_WORDS,
    _deleted,
    _replaced,
    _swapped,
    synonyms,
    varied,
    without_stop_words,
)
from diptych.errors import InputError

TABLE = {"large": ("big", "huge"), "cat": ("feline",)}
TEXT = "a large cat near a large house with five small windows in it"


def rng(seed=0):
    return np.random.default_rng(seed)


def test_stop_words_go_whatever_their_case_and_marks():
    assert without_stop_words("The cat, which is NOT on the mat.") == "cat, mat."
    assert without_stop_words("(a) 'red' one") == "'red' one"
    assert without_stop_words("It is not.") == "It is not."
    assert all(word == word.lower() and word.isalpha() for word in STOP_WORDS)


def test_a_replaced_word_is_replaced_everywhere_and_only_known_ones_are():
    for seed in range(20):
        found = _replaced(TEXT.split(), rng(seed), TABLE, 0.1)
        changed = {(a, b) for a, b in zip(TEXT.split(), found, strict=True) if a != b}
        assert changed in ({("large", "big")}, {("large", "huge")}, {("cat", "feline")})
    assert _replaced(["a", "dog"], rng(), TABLE, 0.1) == ["a", "dog"]
    both = _replaced(TEXT.split(), rng(), TABLE, 0.2)  # a fifth of 13 words: two of them
    assert "feline" in both
    assert "large" not in both


def test_swaps_keep_the_words_and_deletion_their_order():
    for seed in range(20):
        swapped = _swapped(TEXT.split(), rng(seed), {}, 0.1)
        assert sorted(swapped) == sorted(TEXT.split())
        assert sum(a != b for a, b in zip(TEXT.split(), swapped, strict=True)) in (0, 2)
        kept = _deleted(TEXT.split(), rng(seed), {}, 0.3)
        rest = iter(TEXT.split())
        assert all(word in rest for word in kept)
    shares = [len(_deleted(TEXT.split(), rng(seed), {}, 0.1)) / 13 for seed in range(300)]
    assert np.mean(shares) == pytest.approx(0.9, abs=0.02)


def test_operations_are_drawn_by_their_shares():
    text = "large a b c d e f g h i"

    def reported(seed):
        found = varied(text, rng(seed), TABLE).split()
        if len(found) < 10 or found == text.split():
            return "deleted"  # or kept by deletion that met no word
        return "replaced" if "large" not in found else "swapped"

    counts = Counter(reported(seed) for seed in range(2000))
    assert counts["replaced"] / 2000 == pytest.approx(0.4, abs=0.03)
    assert counts["swapped"] / 2000 == pytest.approx(0.4, abs=0.03)


@given(st.text(alphabet="ab t\n", max_size=12), st.integers(0, 50))
def test_no_text_ends_empty_and_the_same_seed_gives_the_same(text, seed):
    found = varied(text, rng(seed), {"a": ("b",)}, share=0.9)
    assert found == varied(text, rng(seed), {"a": ("b",)}, share=0.9)
    assert bool(found.strip()) == bool(text.strip())
    assert bool(without_stop_words(text).strip()) == bool(text.strip())


def test_tables_of_synonyms(tmp_path):
    assert synonyms("none") == {}
    common = synonyms("common")
    assert common["striped"] == ("banded", "stripy")
    assert all(word in common[other] for word, others in common.items() for other in others)
    path = tmp_path / "words.json"
    path.write_text(json.dumps([["Big", "large"], ["large", "wide"], ["alone"]]))
    assert synonyms(str(path)) == {"big": ("large",), "large": ("Big", "wide"), "wide": ("large",)}


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="name none, common, wordnet or a JSON file"):
        synonyms(str(tmp_path / "missing.json"))
    for content in ("{", "3", "[3]"):
        path = tmp_path / f"{len(content)}{content[0] == '['}.json"
        path.write_text(content)
        with pytest.raises(InputError, match="JSON list of lists of words"):
            synonyms(str(path))
