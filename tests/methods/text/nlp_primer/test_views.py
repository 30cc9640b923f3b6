"""Versions and spans of texts: what is changed, what stays, and how long spans are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import tokenizer

from diptych.data.sample import BadSample, Sample, Text
from diptych.data.tokenizers import build
from diptych.data.views.masked import MaskedTextView
from diptych.errors import InputError
from diptych.methods.text.nlp_primer.views import (
    ChangedTextView,
    CutView,
    DocumentSpansView,
    HiddenSpanView,
    with_moved_spans,
    without_spans,
)
from diptych.rng import generator

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
TEXT = " ".join(WORDS)
TOKENS = build("bpe:vocab_size=320:context=24:special=mask", [TEXT] * 4)


def sample(text):
    return Sample(key="a", source="", texts=(Text(text=text),))


def ids_of(view, text=TEXT, seed=0):
    return view(sample(text), generator(seed), 0.5)


def own(ids):
    return list(ids[len(TOKENS.before) : len(ids) - len(TOKENS.after)])


@given(
    st.lists(st.text("abc", min_size=1), min_size=2, max_size=30),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
)
def test_words_are_left_out_or_moved(words, share, seed):
    rng = np.random.default_rng(seed)
    kept = without_spans(words, share, rng)
    assert 1 <= len(kept) < len(words)
    there = iter(words)
    assert all(word in there for word in kept)  # in their order
    assert sorted(with_moved_spans(words, share, rng)) == sorted(words)


def test_every_word_is_left_out_as_often():
    rng = np.random.default_rng(0)
    kept = [without_spans(WORDS, 0.3, rng) for _ in range(2000)]
    counts = np.array([sum(word not in each for each in kept) for word in WORDS])
    assert counts.sum() == 2000 * 3
    assert np.abs(counts - 600).max() < 5 * (600 * 0.7) ** 0.5


def test_the_two_versions_are_of_one_text():
    view = ChangedTextView(tokenizer=TOKENS, changes=("none", "deletion"), share=0.5)
    texts = (Text(text="one two three four"), Text(text="five six seven eight"))
    for seed in range(5):
        given = Sample(key="a", source="", texts=texts)
        whole, part = view(given, generator(seed), 0.5)["texts.main"]
        words = TOKENS.decode(own(part)).split()
        assert set(words) < set(TOKENS.decode(own(whole)).split())


def test_two_deletions_differ_and_synonyms_come_from_the_table():
    view = ChangedTextView(tokenizer=TOKENS, changes=("deletion", "deletion"))
    one, other = ids_of(view)["texts.main"]
    assert one != other
    view = ChangedTextView(tokenizer=TOKENS, changes=("none", "substitution"), share=1.0)
    plain, changed = ids_of(view, "one big three")["texts.main"]
    assert plain != changed
    view = ChangedTextView(tokenizer=TOKENS, changes=("deletion", "reordering"))
    assert ids_of(view, "one")["texts.main"] == TOKENS.encode(["one", "one"])


def test_one_span_is_hidden():
    view = HiddenSpanView(tokenizer=TOKENS, span=2)
    whole, hidden = ids_of(view)["texts.main"]
    mask = TOKENS.special_id("mask")
    at = hidden.index(mask)
    assert hidden.count(mask) == 1
    assert len(hidden) == len(whole) - 1
    assert hidden[:at] == whole[:at]
    assert hidden[at + 1 :] == whole[at + 2 :]
    _, short = ids_of(view, "one")["texts.main"]
    assert mask in short
    with pytest.raises(InputError, match="special=mask"):
        HiddenSpanView(tokenizer=tokenizer())


def test_cuts():
    view = CutView(tokenizer=TOKENS, cuts=("token_cutoff", "shuffle"), width=20, tokens=0.3)
    found = ids_of(view)
    cut, moved = found["texts.main"]
    count = len(own(cut.ids))
    marks = np.array(cut.marks)
    assert (marks >= 0).sum() == int(0.3 * count)
    assert (marks[marks >= 0] == np.array(cut.ids)[marks >= 0]).all()
    assert sorted(own(moved.ids)) == sorted(own(cut.ids))
    assert own(moved.ids) != own(cut.ids)
    assert max(moved.marks) == -1
    assert not found["fields.features"].any()
    view = CutView(tokenizer=TOKENS, cuts=("feature_cutoff", "none"), width=19, features=0.2)
    found = ids_of(view)
    assert found["fields.features"].sum(1).tolist() == [3, 0]
    few = CutView(tokenizer=TOKENS, cuts=("token_cutoff", "none"), width=4, tokens=0.01)
    assert (np.array(ids_of(few)["texts.main"][0].marks) >= 0).sum() == 1
    with pytest.raises(InputError, match="'turn' is no cut"):
        CutView(tokenizer=TOKENS, cuts=("turn", "none"), width=4)  # type: ignore[arg-type]


def spans(count=400, **options):
    text = " ".join(WORDS * 6)
    view = DocumentSpansView(tokenizer=TOKENS, anchors=1, positives=1, **options)
    found = [ids_of(view, text, seed) for seed in range(count)]
    rows = [[own(each[f"texts.{name}"][0]) for each in found] for name in ("anchors", "positives")]
    return TOKENS.ids(text), *rows


def places(document, span):
    last = len(document) - len(span) + 1
    return [at for at in range(last) if document[at : at + len(span)] == span]


def test_lengths_of_spans_follow_their_beta_distributions():
    _, anchors, positives = spans(min_length=2, max_length=20)
    lengths = [np.array([len(span) for span in rows]) for rows in (anchors, positives)]
    for found, mean in zip(lengths, (2 / 3, 1 / 3), strict=True):
        assert found.min() >= 2
        assert found.max() <= 20
        # lengths are rounded down
        assert found.mean() == pytest.approx(2 + 18 * mean - 0.5, abs=0.7)


def test_positives_overlap_or_touch_their_anchor():
    view = DocumentSpansView(tokenizer=TOKENS, anchors=2, positives=3, min_length=2, max_length=6)
    text = "abcdefghijklmnopqrstuvwxyz"
    document = TOKENS.ids(text)
    assert len(set(document)) == len(document)  # so that a span has one place
    before = after = inside = 0
    for seed in range(200):
        found = ids_of(view, text, seed)
        assert len(found["texts.anchors"]) == 2
        assert len(found["texts.positives"]) == 6
        for number, positive in enumerate(found["texts.positives"]):
            anchor = own(found["texts.anchors"][number // 3])
            (start,) = places(document, anchor)
            (first,) = places(document, own(positive))
            last = first + len(own(positive))
            assert first <= start + len(anchor)
            assert last >= start
            before += last == start
            after += first == start + len(anchor)
            inside += start < first and last < start + len(anchor)
    assert min(before, after, inside) > 0


def test_short_documents_and_masked_anchors():
    view = DocumentSpansView(tokenizer=TOKENS, min_length=32, max_length=512)
    assert len(own(ids_of(view, "one two")["texts.anchors"][0])) >= 1
    assert len(TOKENS.ids("one")) == 1
    with pytest.raises(BadSample, match="fewer than two"):
        ids_of(view, "one")
    masked = MaskedTextView(tokenizer=TOKENS, name="masked", rate=0.5)
    view = DocumentSpansView(tokenizer=TOKENS, min_length=4, max_length=8, masked=masked)
    found = ids_of(view)
    for anchor, hidden in zip(found["texts.anchors"], found["texts.masked"], strict=True):
        there = [
            mark if mark >= 0 else shown
            for mark, shown in zip(hidden.marks, hidden.ids, strict=True)
        ]
        assert there == anchor
