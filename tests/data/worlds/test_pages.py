"""The world `pages`: words are where their boxes are, keys differ, and every answer is on its page."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.sources import open_source
from diptych.data.worlds.pages import Config, World
from diptych.data.worlds.pages.layout import KINDS
from diptych.data.worlds.pages.words import LONGEST, WORDS
from diptych.errors import InputError


def pages(**options):
    world = World(Config(**options))
    return world, [world.sample(1, index) for index in range(20)]


def test_words_are_a_hundred_that_fit():
    assert len(set(WORDS)) == 100
    assert {len(word) for word in WORDS} == {3, 4, 5, LONGEST}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"width": 200, "height": 60, "letter": 8, "length": 6}])
def test_ink_is_inside_of_the_boxes_and_in_each_of_them(kind, options):
    world, facts = pages(kind=kind, **options)
    for each in facts[:6]:
        image = np.asarray(world.render(each).image)[..., 0].astype(int)
        dark = image < each.paper - 20
        covered = np.zeros_like(dark)
        for box in world.boxes(each):
            x0, y0, x1, y1 = box.xyxy
            assert 0 <= x0 < x1 <= image.shape[1]
            assert 0 <= y0 < y1 <= image.shape[0]
            place = (slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1))))
            assert dark[place].any(), box.text
            covered[place] = True
        assert not (dark & ~covered).any()


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_in_reading_order_and_do_not_touch(kind):
    _, facts = pages(kind=kind)
    for each in facts:
        words = each.layout.words
        assert [*words] == sorted(words, key=lambda word: (word.line, word.column))
        taken = [
            (word.line, word.column + at) for word in words for at in range(-1, len(word.text))
        ]
        assert len(set(taken)) == len(taken)


def test_keys_differ_and_values_answer_them():
    world, facts = pages(kind="form", lines=5, questions=9)
    for each in facts:
        words = [word.text for word in each.layout.words]
        keys, values = words[::2], words[1::2]
        assert len(set(keys)) == 5
        told = {text.text: text.role for text in world.captions(each)}
        assert len(each.asked) == 5
        for key, value in zip(keys, values, strict=True):
            assert told[f"what is {key}?"] == "question"
            assert told[value] == "answer"


def test_cells_of_a_table_are_asked_by_row_and_column():
    _, facts = pages(kind="table", lines=4)
    for each in facts:
        words = each.layout.words
        heads = [word for word in words if word.line == 0]
        for asked in each.layout.asked:
            answer = words[asked.answer]
            [head] = [head for head in heads if head.column == answer.column]
            [name] = [word for word in words if word.line == answer.line and word.column == 0]
            assert asked.question == f"what is the {head.text} of {name.text}?"
        assert len(each.layout.asked) == 3 * len(heads)


def test_receipts_add_up():
    _, facts = pages(kind="receipt")
    for each in facts:
        *prices, total = [int(word.text) for word in each.layout.words[1::2]]
        assert sum(prices) == total
        assert each.layout.words[-2].text == "total"


def test_the_next_word_of_a_page_of_words():
    _, facts = pages(kind="text")
    for each in facts:
        words = [word.text for word in each.layout.words]
        assert len(set(words)) == len(words)
        for at, asked in enumerate(each.layout.asked):
            assert asked.question == f"which word follows {words[at]}?"
            assert asked.answer == at + 1


def test_splits_and_seeds_are_streams_of_their_own():
    made = {
        spec: [open_source(f"pages:count=20:{spec}")[at].texts[1].text for at in range(20)]
        for spec in ("split=train", "split=val", "split=test", "seed=3")
    }
    assert len({text for texts in made.values() for text in texts}) == 80
    again = open_source("pages:count=5")
    assert [again[at].texts[1].text for at in range(5)] == made["split=train"][:5]


def test_samples_have_the_fields_of_the_schema():
    source = open_source("pages:count=3:questions=2")
    sample = source[1]
    assert sample.images["main"].decode().size == (128, 96)
    assert {text.role for text in sample.texts} == {"caption", "ocr", "question", "answer"}
    assert " ".join(box.text for box in sample.boxes) == sample.texts[1].text
    assert source.schema()["labels.kind"].classes == tuple(KINDS)
    assert "texts.question" not in open_source("pages:count=3:questions=0").schema()


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(90, 400),
    height=st.integers(24, 200),
    letter=st.integers(6, 16),
    kind=st.sampled_from(sorted(KINDS)),
    index=st.integers(0, 50),
)
def test_pages_of_any_size_are_drawn_or_refused(width, height, letter, kind, index):
    try:
        world = World(Config(width=width, height=height, letter=letter, kind=kind))
    except InputError:
        return
    facts = world.sample(0, index)
    assert world.render(facts).image.size == (width, height)
    assert len(world.boxes(facts)) == len(facts.layout.words)
    for box in world.boxes(facts):
        assert box.xyxy[2] <= width + 1e-6
        assert box.xyxy[3] <= height + 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "dev"}, "unknown split of pages 'dev'"),
        ({"kind": "letter"}, "unknown kind of pages 'letter'"),
        ({"letter": 4}, "letter of pages is 4; it must be at least 6"),
        ({"width": 40}, "holds 6 letters of 11 pixels in a line, and any pages need 13"),
        ({"lines": 9}, "holds 8 lines of 11 pixels, and 9 are asked for"),
        ({"questions": -1}, "questions of pages is -1"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(InputError, match=said):
        World(Config(**options))
