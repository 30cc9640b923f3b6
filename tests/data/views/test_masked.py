"""Masked words and spans: which ids are chosen, what stands in their place, and what is kept of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.sample import BadSample, Sample, Text
from diptych.data.tokenizers import build
from diptych.data.views import Masked, MaskedTextView, SpanView, TextView, collate
from diptych.data.views.masked import noise_spans
from diptych.errors import InputError
from diptych.rng import generator

TEXT = "a large reddish cat sits on the green grass beside a small bluish dog"
TOKENIZER = build("bpe:vocab_size=300:context=80:special=mask+extra_id_0-extra_id_12", [TEXT] * 3)
SAMPLE = Sample(key="a", source="s", texts=(Text(text=TEXT), Text(text="a cat")))
(IDS,) = TOKENIZER.encode([TEXT])
MASK = TOKENIZER.special["mask"]


def masked(seed=0, **options):
    view = MaskedTextView(tokenizer=TOKENIZER, **options)
    return view(SAMPLE, generator(seed), None)["texts.main"][0]


def test_marks_hold_the_ids_that_were_there():
    found = masked(rate=0.3, kept=0.0, random=0.0)
    assert len(found.ids) == len(found.marks) == len(IDS)
    for own, shown, mark in zip(IDS, found.ids, found.marks, strict=True):
        assert (shown, mark) in {(own, -1), (MASK, own)}
    assert {found.marks[0], found.marks[-1]} == {-1}, "start and end are never masked"


def test_an_id_at_least_is_masked_and_the_end_may_be():
    rows = [
        masked(seed, rate=0.0, min_masked=1, kept=0.0, random=0.0, ends=True) for seed in range(300)
    ]
    places = [[at for at, mark in enumerate(row.marks) if mark >= 0] for row in rows]
    assert {len(each) for each in places} == {1}
    assert {each[0] for each in places} == set(range(1, len(IDS)))
    assert all(row.ids[at] == MASK for row, (at,) in zip(rows, places, strict=True))


def test_rates_and_fates_are_those_asked_for():
    """15 % of 40,000 ids, of which 80 % are masked, 10 % kept and 10 % replaced: within five
    standard errors."""
    rows = [masked(seed) for seed in range(40_000 // len(IDS))]
    own = np.array([IDS[1:-1]] * len(rows)).ravel()
    shown = np.array([row.ids[1:-1] for row in rows]).ravel()
    marks = np.array([row.marks[1:-1] for row in rows]).ravel()
    chosen = marks >= 0
    count = chosen.sum()
    assert abs(chosen.mean() - 0.15) < 5 * np.sqrt(0.15 * 0.85 / len(own))
    assert (marks[chosen] == own[chosen]).all()
    assert (shown[~chosen] == own[~chosen]).all()
    for share, fate in ((0.8, shown[chosen] == MASK), (0.1, shown[chosen] == own[chosen])):
        assert abs(fate.mean() - share) < 0.01 + 5 * np.sqrt(share * (1 - share) / count)
    replaced = shown[chosen & (shown != MASK) & (shown != own)]
    assert set(replaced.tolist()) <= set(TOKENIZER.ordinary.tolist())
    assert len(set(replaced.tolist())) > 50


def test_whole_words_are_chosen_with_all_their_ids():
    starts = TOKENIZER.starts_word(IDS[1:-1])
    word = np.cumsum(starts)
    assert len(set(word.tolist())) < len(word), "some words have several ids"
    for seed in range(30):
        chosen = np.array(masked(seed, rate=0.3, whole_word=True).marks[1:-1]) >= 0
        for number in set(word.tolist()):
            assert len(set(chosen[word == number].tolist())) == 1


def test_masking_follows_from_the_generator():
    assert masked(3) == masked(3)
    assert masked(3) != masked(4)


def test_texts_of_unequal_length_are_padded_with_their_marks():
    view = MaskedTextView(tokenizer=TOKENIZER, count=2, rate=0.5)
    rows = [view(SAMPLE, generator(seed), None) for seed in range(3)]
    tokens = collate(["a", "b", "c"], rows, {"main": TOKENIZER}).text
    assert tokens.marks.shape == tokens.ids.shape == (3, 2, len(IDS))
    assert (tokens.marks[:, 1, int(tokens.lengths[0, 1]) :] == -1).all()
    assert tokens.marks[0, 0].tolist() == rows[0]["texts.main"][0].marks
    first, second = tokens.columns()
    assert torch.equal(torch.cat([first.marks, second.marks], 1), tokens.marks)
    plain = TextView(tokenizer=TOKENIZER)(SAMPLE, generator(0), None)
    assert collate(["a"], [plain], {"main": TOKENIZER}).text.marks is None


def test_a_tokenizer_without_a_mask_is_refused():
    with pytest.raises(InputError, match="no special token 'mask'"):
        MaskedTextView(tokenizer=build("bpe:vocab_size=280", [TEXT]))


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(2, 200),
    density=st.floats(0.01, 0.95),
    span=st.floats(1, 10),
    seed=st.integers(0, 5),
)
def test_spans_cover_the_text_and_their_share_of_it(length, density, span, seed):
    spans = noise_spans(length, density, span, np.random.default_rng(seed))
    assert sum(plain + noise for plain, noise in spans) == length
    assert all(plain > 0 and noise > 0 for plain, noise in spans)
    noise = sum(noise for _, noise in spans)
    assert noise == min(max(round(length * density), 1), length - 1)


def test_how_ids_are_dealt_to_spans_is_uniform():
    """Four ids of noise in two spans: lengths 1+3, 2+2 and 3+1 are equally likely."""
    firsts = [noise_spans(16, 0.25, 2, np.random.default_rng(seed))[0][1] for seed in range(1500)]
    counts = np.bincount(firsts, minlength=4)[1:]
    assert np.abs(counts / 1500 - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 1500)


def test_a_snippet_of_fifty_ids_loses_eight_in_two_spans():
    """The numbers of VisFocus's masked snippets: 50 - 8 + 2 ids and the end, 8 + 2 + 1 and the
    end."""
    long = " ".join([TEXT] * 4)
    tokenizer = build("bpe:vocab_size=300:context=400:special=extra_id_0-extra_id_9", [TEXT] * 3)
    view = SpanView(tokenizer=tokenizer, density=0.15, span=4, length=50)
    sample = Sample(key="a", source="s", texts=(Text(text=long),))
    found = view(sample, generator(0), None)
    own = len(tokenizer.before) + len(tokenizer.after)
    assert len(found["texts.main"][0]) == 44 + own
    assert len(found["texts.main_target"][0]) == 11 + own


@pytest.mark.parametrize("seed", range(5))
def test_spans_behind_their_sentinels_restore_the_text(seed):
    view = SpanView(tokenizer=TOKENIZER, density=0.3, span=2)
    assert view.gives == ("texts.main", "texts.main_target")
    found = view(SAMPLE, generator(seed), None)
    shown = found["texts.main"][0][1:-1]
    target = found["texts.main_target"][0][1:-1]
    sentinels = [TOKENIZER.special[f"extra_id_{number}"] for number in range(13)]
    spans = {}
    for number in target:
        if number in sentinels:
            spans[number] = []
            last = number
        else:
            spans[last].append(number)
    assert spans.pop(last) == [], "the last sentinel ends the target"
    restored = [part for number in shown for part in spans.get(number, [number])]
    assert restored == IDS[1:-1]
    assert [number for number in shown if number in sentinels] == sentinels[: len(spans)]


@pytest.mark.parametrize("length", [50, 4])
def test_pieces_are_of_the_whole_text_beyond_the_context(length):
    """A context of 12 ids holds a piece of ten, or of four; over many draws all ids of a long text are in
    one."""
    tokenizer = build("bpe:vocab_size=300:context=12:special=extra_id_0-extra_id_9", [TEXT] * 3)
    whole = tokenizer.ids(TEXT)
    assert len(whole) > 2 * tokenizer.room
    view = SpanView(tokenizer=tokenizer, density=0.15, span=4, length=length)
    sentinels = set(tokenizer.special.values())
    seen = set()
    for seed in range(200):
        found = view(SAMPLE, generator(seed), None)
        (shown,) = found["texts.main"]
        (target,) = found["texts.main_target"]
        assert len(shown) <= tokenizer.context
        (at,) = (n for n, number in enumerate(shown) if number in sentinels)
        hidden = [number for number in target[1:-1] if number not in sentinels]
        piece = [*shown[1:at], *hidden, *shown[at + 1 : -1]]
        assert len(piece) == min(length, tokenizer.room)
        starts = [n for n in range(len(whole)) if whole[n : n + len(piece)] == piece]
        assert starts
        seen |= {n for start in starts for n in range(start, start + len(piece))}
    assert seen == set(range(len(whole)))


def test_a_text_too_short_for_a_span_is_damaged():
    sample = Sample(key="a", source="s", texts=(Text(text="a"),))
    with pytest.raises(BadSample, match="short-text"):
        SpanView(tokenizer=TOKENIZER, length=20)(sample, generator(0), None)


def test_too_few_sentinels_are_refused():
    with pytest.raises(InputError, match=r"20 spans need .* bpe:special=extra_id_0-extra_id_20"):
        SpanView(tokenizer=TOKENIZER, density=0.5, span=2)


def test_masked_is_a_pair_of_equal_lengths():
    assert Masked([1, 2], [-1, 2]) == Masked([1, 2], [-1, 2])
