"""ALIGN's filters by frequency: each rule alone, their order, and that no order of the pairs
matters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import Here

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.pretrain.align.filter import (
    REASONS,
    Pair,
    Rules,
    broken,
    filtered,
    frequent,
    grams,
)

NONE = dict.fromkeys(vars(Rules()))


def reasons(pairs, **rules):
    return [
        REASONS[reason] if reason >= 0 else ""
        for reason in broken(pairs, Rules(**{**NONE, **rules}))
    ]


def text(word, times=1):
    return " ".join([word] * times)


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (201, 400, ""),
        (200, 400, "small"),
        (400, 200, "small"),
        (300, 900, "narrow"),
        (300, 899, ""),
        (0, 0, ""),
    ],
)
def test_small_and_narrow_images_go_and_unknown_sizes_stay(width, height, reason):
    assert reasons(
        [Pair(image=0, text="a", width=width, height=height)], shorter_side=200, aspect=3.0
    ) == [reason]


def test_a_image_of_too_many_texts_goes_with_all_of_them():
    pairs = [Pair(image="a", text=f"text {at}") for at in range(3)] + [
        Pair(image="b", text="text 0")
    ]
    assert reasons(pairs, texts_per_image=2) == ["many-texts"] * 3 + [""]
    assert reasons(pairs, texts_per_image=3) == [""] * 4


def test_a_text_of_too_many_images_goes_and_twice_beside_one_image_is_once():
    pairs = [Pair(image=at, text="click here") for at in (0, 1, 2)] + [
        Pair(image=3, text="a cat")
    ] * 5
    assert reasons(pairs, images_per_text=2) == ["shared-text"] * 3 + [""] * 5
    assert reasons(pairs, images_per_text=3) == [""] * 8


def test_a_text_with_a_rare_word_or_a_rare_pair_of_words_goes():
    texts = ["red cat"] * 3 + ["cat red", "red zyx"]
    pairs = [Pair(image=at, text=each) for at, each in enumerate(texts)]
    assert frequent(texts, 3) == {"red", "cat", "red cat"}
    assert reasons(pairs, vocabulary=3) == [""] * 3 + ["rare", "rare"]
    assert reasons(pairs, vocabulary=100) == [""] * 5


@pytest.mark.parametrize(("words", "reason"), [(2, "short"), (3, ""), (20, ""), (21, "long")])
def test_texts_have_three_to_twenty_words(words, reason):
    assert reasons([Pair(image=0, text=text("cat", words))], min_words=3, max_words=20) == [reason]


def test_the_first_rule_that_is_broken_is_told():
    pair = Pair(image=0, text="cat", width=10, height=100)
    assert [REASONS[reason] for reason in broken([pair])] == ["small"]
    assert reasons([pair], aspect=3.0, min_words=3) == ["narrow"]


def test_a_rule_of_nothing_is_refused():
    with pytest.raises(InputError, match="min_words is 0"):
        Rules(min_words=0)


def test_words_are_lower_case_and_punctuation_parts_them():
    assert list(grams("Don't, RED-cat!")) == ["don't", "red", "cat", "don't red", "red cat"]
    assert list(grams("...")) == []


PAIRS = st.lists(
    st.builds(
        Pair,
        image=st.integers(0, 3),
        text=st.lists(st.sampled_from(["red", "cat", "zyx", "a"]), max_size=4).map(" ".join),
        width=st.sampled_from([0, 100, 300]),
        height=st.sampled_from([0, 300, 1000]),
        tested=st.booleans(),
    ),
    max_size=12,
)
RULES = Rules(texts_per_image=3, images_per_text=2, vocabulary=4, min_words=1, max_words=3)


def slow(pairs):
    """Counts anew for each pair."""
    found = []
    for pair in pairs:
        texts = sum(other.image == pair.image for other in pairs)
        images = len({other.image for other in pairs if other.text == pair.text})
        every = [gram for other in pairs for gram in grams(other.text)]
        ranked = sorted((every.count(gram) for gram in set(every)), reverse=True)
        edge = ranked[RULES.vocabulary] if len(ranked) > RULES.vocabulary else 0
        rare = any(every.count(gram) <= edge for gram in grams(pair.text))
        low, high = sorted((pair.width, pair.height))
        words = len(pair.text.split())
        shape = [0 < low <= 200, low > 0 and high >= 3 * low]
        breaks = [*shape, texts > 3, pair.tested, images > 2, rare, words < 1, words > 3]
        found.append(breaks.index(True) if any(breaks) else -1)
    return found


@given(PAIRS, st.randoms(use_true_random=False))
def test_equal_to_counting_by_hand_in_any_order(pairs, luck):
    found = broken(pairs, RULES)
    assert found.tolist() == slow(pairs)
    order = list(range(len(pairs)))
    luck.shuffle(order)
    assert np.array_equal(
        broken([pairs[at] for at in order], RULES), found[order] if order else found
    )


def test_images_that_are_tested_on_go_and_those_that_look_like_them():
    """Equal bytes, and the same image written anew at another size; the order of the rules
    holds."""
    train = open_source("scenes:count=6:seed=3:size=64:texts=caption")
    same, resized = (
        open_source(f"scenes:count=1:start={at}:seed=3:size={size}:texts=caption")
        for at, size in ((1, 64), (4, 96))
    )
    rules = Rules(**NONE)
    assert (filtered(train, rules).reasons == -1).all()
    found = filtered(train, rules, tests=[same, resized])
    assert [REASONS[reason] if reason >= 0 else "" for reason in found.reasons] == [
        "",
        "test",
        "",
        "",
        "test",
        "",
    ]
    assert found.counts()["test"] == 2
    assert REASONS.index("many-texts") < REASONS.index("test") < REASONS.index("shared-text")


def test_workers_of_a_cluster_say_what_one_process_says():
    """Spans come back from the last one on."""
    source, other = (
        open_source(f"scenes:count={count}:size=32:texts=caption:noise=junk=0.3:start={start}")
        for count, start in ((150, 0), (3, 100))
    )
    rules = Rules(shorter_side=None, vocabulary=400)
    engine, seen = Here(), []
    here = filtered(source, rules, tests=[other])
    there = filtered(
        source, rules, tests=[other], workers=engine, progress=lambda *at: seen.append(at)
    )
    assert len(engine.items) == 3 + 1 + 3  # what tests show, then the pairs
    for name in ("samples", "texts", "reasons"):
        assert np.array_equal(getattr(here, name), getattr(there, name))
    assert (here.damaged, here.counts()["test"]) == (there.damaged, 3)
    assert seen[-3:] == [(64, 150), (128, 150), (150, 150)]
