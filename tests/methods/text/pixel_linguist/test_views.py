"""Pairs of texts: the noise of each branch, spans, and what tower they are read for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.render import TextRenderer
from diptych.data.sample import BadSample, Sample, Text
from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.methods.text.pixel_linguist.config import PIXELS, TEXTS, Config
from diptych.methods.text.pixel_linguist.views import (
    ALTERED,
    HiddenTextView,
    PairView,
    Reader,
    hidden_spans,
    noisy,
    roles,
    spans,
    translated,
)
from diptych.rng import generator

RENDERER = TextRenderer(patches=16)
READER = Reader(renderer=RENDERER)
TEXT = "the old king carries a drum"


def sample_of(**texts):
    return Sample(
        key="a", source="s", texts=[Text(text=text, role=role) for role, text in texts.items()]
    )


def pairs(branch, count=60, text=TEXT, **options):
    pair = noisy(Config(**options), branch)
    return [pair(sample_of(caption=text), generator(seed)) for seed in range(count)]


def test_typos_keep_words_in_place_and_are_of_their_rate():
    changed = 0
    for anchor, other in pairs("typos", 300, typos="drop"):
        assert anchor == TEXT
        for a, b in zip(anchor.split(), other.split(), strict=True):
            assert a == b or (len(a) >= 4 and len(b) == len(a) - 1)
            changed += a != b
    assert changed / (3 * 300) == pytest.approx(0.3, abs=0.05)  # king, carries, drum
    assert all(a == b for a, b in pairs("typos", typo_rate=0.0))


def test_shuffles_keep_the_words_and_windows_most_of_their_order():
    moved = {}
    for branch in ("shuffle", "window"):
        distances = []
        for anchor, other in pairs(branch, 200):
            assert sorted(anchor.split()) == sorted(other.split())
            assert anchor != other
            distances += [abs(other.split().index(w) - at) for at, w in enumerate(anchor.split())]
        moved[branch] = (max(distances), np.mean(distances))
    assert moved["window"][0] == 2
    assert moved["window"][1] < 0.7 < moved["shuffle"][1]


def test_mixed_noise_has_both():
    found = pairs("mixed", 200, typo_rate=1.0)
    words = [(set(a.split()), set(b.split())) for a, b in found]
    assert all(len(a - b) >= 2 for a, b in words)
    order = [(a.split().index("the"), b.split().index("the")) for a, b in found]
    assert len({b for _, b in order}) > 2


@pytest.mark.parametrize("branch", PIXELS)
def test_branches_of_pixels_keep_the_text_and_change_the_strip(branch):
    view = PairView(
        reader=READER,
        pair=noisy(Config(), branch),
        reads=("texts.caption",),
        altered=ALTERED[branch],
    )
    found = view(sample_of(caption="two cats"), generator(1), 0.5)
    first, second = found["images.main"][:, 0].numpy()
    assert np.array_equal(first, RENDERER.render("two cats").pixels)
    assert not np.array_equal(first[:, :80], second[:, :80])
    assert np.array_equal(first[:, 80:], second[:, 80:])  # the black patch and the white ones
    assert found["fields.real"].tolist() == [[at < 6 for at in range(16)]] * 2
    if branch == "flip":
        assert np.array_equal(first[:, :80][:, ::-1], second[:, :80])


def test_spans_are_different_sentences_or_halves():
    page = "One dog barks. Two cats sleep. Three birds sing."
    found = {tuple(spans("caption")(sample_of(caption=page), generator(s))) for s in range(60)}
    said = ("One dog barks", "Two cats sleep", "Three birds sing")
    assert found == {(a, b) for a in said for b in said if a != b}
    assert spans("page")(sample_of(page="one two three four five"), generator(0)) == (
        "one two",
        "three four five",
    )
    with pytest.raises(BadSample, match="no two spans"):
        spans("caption")(sample_of(caption="word"), generator(0))


def test_pages_of_the_world_give_spans():
    source = open_source("sentences:count=20:page=3")
    for sample in source:
        a, b = spans("page")(sample, generator(0))
        assert a != b
        assert f"{a}." in sample.captions("page")[0]


def test_roles_and_translations_are_taken_where_they_are():
    sample = sample_of(caption="one", pair="two", contradiction="three")
    assert roles("caption", "pair", "contradiction")(sample, generator(0)) == [
        "one",
        "two",
        "three",
    ]
    with pytest.raises(BadSample, match="no text of role 'question'"):
        roles("caption", "question")(sample, generator(0))
    sample = sample_of(caption="one", de="eins", fr=" ")
    assert translated("caption", ("de", "fr"))(sample, generator(0)) == ("one", "eins")
    with pytest.raises(BadSample, match="fr or ja"):
        translated("caption", ("fr", "ja"))(sample, generator(0))


def test_a_tower_of_tokens_reads_ids():
    tokenizer = build("bpe:vocab_size=270:context=12", [TEXT])
    view = PairView(
        reader=Reader(tokenizer=tokenizer),
        pair=noisy(Config(), "shuffle"),
        reads=("texts.caption",),
    )
    assert view.gives == ("texts.main",)
    first, second = view(sample_of(caption=TEXT), generator(0), 0.0)["texts.main"]
    assert [first] == tokenizer.encode([TEXT])
    assert first != second


def test_texts_of_a_script_that_the_font_lacks_are_no_examples():
    view = PairView(reader=READER, pair=noisy(Config(), "typos"), reads=("texts.caption",))
    with pytest.raises(BadSample, match="lacks most characters") as error:
        view(sample_of(caption="𓂀𓃀𓅓𓆑 a"), generator(0), 0.0)
    assert error.value.reason == "no-glyph"
    view(sample_of(caption="a smile \U0001f600"), generator(0), 0.0)
    with pytest.raises(BadSample, match="no text of role 'caption'"):
        view(sample_of(caption="  "), generator(0), 0.0)


@pytest.mark.parametrize("branch", TEXTS)
def test_a_pair_is_a_function_of_its_generator(branch):
    assert pairs(branch, 20) == pairs(branch, 20)


# ---- hidden patches


@given(st.integers(1, 40), st.floats(0, 0.99), st.integers(0, 9))
def test_spans_cover_their_number_of_places(places, share, seed):
    count = int(np.ceil(share * places))
    found = hidden_spans(places, count, generator(seed))
    assert len(found) == len(set(found)) == count
    assert all(0 <= place < places for place in found)


@given(st.text("abc ", max_size=60), st.integers(0, 5))
def test_every_sample_hides_as_many_patches_a_quarter_of_the_real_ones(text, seed):
    view = HiddenTextView(reader=READER, role="caption", share=0.25)
    found = view(sample_of(caption=f"x{text}"), generator(seed), 0.0)
    hidden, real = found["fields.hidden"], found["fields.real"][0]
    assert int(hidden.sum()) == 4
    assert int((hidden & real).sum()) == int(np.ceil(0.25 * int(real.sum())))
    assert hidden.dtype == torch.bool
    assert view.gives == ("images.main", "fields.real", "fields.hidden")
