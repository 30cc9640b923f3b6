"""Sentences that show a thing and such as hold something of it: the same words, the same lengths,
another order."""

import re
from collections import Counter

import numpy as np
import pytest

from diptych.data.worlds.sentences.mixed import held, padded, shown

THING = "a red cat on grass"


def words(text):
    return re.findall(r"[a-z']+", text.lower())


def test_both_kinds_have_the_same_words_but_for_the_pronoun():
    for seed in range(300):
        one, other = (kind(THING, np.random.default_rng(seed)) for kind in (shown, held))
        assert Counter(words(one)) - Counter(words(other)) in (Counter(), Counter(["that"]))
        assert not Counter(words(other)) - Counter(words(one))
        assert one.startswith(THING)
        assert other.endswith(THING)


def test_no_word_tells_the_kinds_apart():
    """Of 2,000 sentences each, no word of some frequency is four times as frequent in one kind as
    in the other."""
    count = {kind: Counter() for kind in (shown, held)}
    for seed in range(4000):
        kind, rng = (shown, held)[seed % 2], np.random.default_rng(seed)
        count[kind].update(set(words(padded(kind(THING, rng), (20,), rng))))
    for word, times in (count[shown] + count[held]).items():
        if times >= 100:
            assert 0.2 < count[shown][word] / times < 0.8, word


@pytest.mark.parametrize("length", [16, 19, 24])
def test_sentences_are_as_long_as_asked(length):
    for seed in range(100):
        for kind in (shown, held):
            text = padded(
                kind(THING, np.random.default_rng(seed)), (length,), np.random.default_rng(seed)
            )
            assert len(text.split()) == length
            assert text[0].isupper()
            assert text.endswith(".")
    long = "a long text that has more words than that already"
    assert len(padded(long, (3,), np.random.default_rng(0)).split()) == 10


def test_all_that_is_held_comes_affirmed_and_denied():
    found = {held(THING, np.random.default_rng(seed)) for seed in range(3000)}
    for part in (
        "has the right",
        "has no right",
        "people long",
        "nobody longs",
        "is a chance",
        "is no chance",
    ):
        assert any(part in text for text in found), part
    assert not any(re.search(r"[|@]|\b[AOVS]\b", text) for text in found)
