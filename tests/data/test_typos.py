"""Typos and orders of words, in any text."""

import re

from hypothesis import given
from hypothesis import strategies as st

from diptych.data.typos import ORDERS, TYPOS, misspell, reordered
from diptych.rng import generator


@given(st.text(max_size=30), st.sampled_from(TYPOS), st.integers(0, 20))
def test_typos_of_any_text_keep_what_is_no_long_word(text, kind, seed):
    wrong = misspell(text, [kind], 1.0, generator(seed))
    if not any(len(word) >= 4 for word in re.findall(r"[^\W\d_]+", text)):
        assert wrong == text
    assert misspell(text, [kind], 0.0, generator(seed), min_typos=0) == text


def test_typos_are_made_in_other_alphabets_and_cases():
    assert misspell("проверка", ["swap"], 1.0, generator(0)) != "проверка"
    assert misspell("проверка", ["neighbour"], 1.0, generator(0)) == "проверка"  # of Latin keys
    wrong = misspell("SHOUTING", ["neighbour"], 1.0, generator(0))
    assert wrong != "SHOUTING"
    assert wrong.isupper()


@given(
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=8),
    st.sampled_from(ORDERS),
    st.integers(0, 20),
)
def test_words_are_reordered_where_another_order_exists(words, reach, seed):
    found = reordered(words, reach, generator(seed))
    assert sorted(found) == sorted(words)
    size = {"all": max(1, len(words)), "window": 3, "pair": 2}[reach]
    step = 1 if reach == "pair" else size
    parts = [words[start : start + size] for start in range(0, len(words), step)]
    assert (found != words) == any(len(set(part)) > 1 for part in parts)
    moved = [at for at, word in enumerate(found) if word != words[at]]
    if reach == "pair":
        assert len(moved) in (0, 2)
    if reach == "window":
        for start in range(0, len(words), 3):
            assert sorted(found[start : start + 3]) == sorted(words[start : start + 3])
