"""The world `paintings`: what is seen speaks for what is felt, and people say so in other words."""

from collections import Counter

import numpy as np
import pytest

from diptych.data.emotions import felt
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.worlds.paintings import Config, World, explained, likely
from diptych.data.worlds.paintings.draw import PALETTES, draw
from diptych.data.worlds.paintings.words import (
    AFFECT,
    ASPECTS,
    EMOTIONS,
    FEELINGS,
    PHRASES,
    REMINDERS,
    SUPPORT,
)
from diptych.errors import InputError
from diptych.rng import generator


def facts_of(count=400, **options):
    world = World(Config(**options))
    return world, [world.sample(0, index) for index in range(count)]


def test_two_people_at_least_feel_different_emotions():
    for agree in (0.0, 2.0, 20.0):
        _, facts = facts_of(120, people=2, agree=agree)
        assert all(len(set(each.felt)) == 2 for each in facts)


def test_what_is_seen_speaks_for_what_is_felt():
    world, facts = facts_of(3000)
    count = Counter((each.palette, emotion) for each in facts for emotion in each.felt)
    for palette in PHRASES["palette"]:
        total = sum(count[palette, emotion] for emotion in EMOTIONS)
        shares = {emotion: count[palette, emotion] / total for emotion in EMOTIONS}
        best = max(EMOTIONS, key=lambda name: SUPPORT[name].get(palette, 0.0))
        worst = min(EMOTIONS, key=lambda name: SUPPORT[name].get(palette, 0.0))
        assert shares[best] > 1.4 * shares[worst], palette
    flat = likely(("dark", "wild", "crowded"), 0.0)
    assert flat == pytest.approx([1 / len(EMOTIONS)] * len(EMOTIONS))
    assert sum(likely(("warm", "still", "open"), 3.0)) == pytest.approx(1.0)
    assert world.spec() == "paintings"


def test_explanations_name_what_is_there_and_what_supports_the_emotion():
    every = {}
    for ways in PHRASES.values():
        every |= {phrase: value for value, phrases in ways.items() for phrase in phrases}
    world, facts = facts_of(300)
    for each in facts:
        texts = [text.text for text in world.captions(each)]
        for emotion, text in zip(texts[::2], texts[1::2], strict=True):
            [value] = {every[phrase] for phrase in every if f" {phrase} " in f" {text} "}
            assert value in each.values
            own = (*FEELINGS[emotion], *REMINDERS[emotion])
            assert any(word in text for word in own)
    named = Counter()
    for draw_number in range(400):
        text = explained("fear", ("dark", "still", "open"), generator(draw_number, "test"))
        named[any(phrase in text for phrase in PHRASES["palette"]["dark"])] += 1
    assert named[True] > 390  # nothing else speaks for fear


def test_every_word_of_feeling_has_its_affect():
    words = {word for ways in FEELINGS.values() for word in ways}
    words |= {
        word
        for ways in REMINDERS.values()
        for way in ways
        for word in way.split()
        if word not in ("a", "an")
    }
    assert words | set(EMOTIONS) <= AFFECT.keys()
    assert all(-1 <= value <= 1 for values in AFFECT.values() for value in values)
    assert AFFECT["fear"][0] < 0 < AFFECT["contentment"][0]
    assert AFFECT["excitement"][1] > 0 > AFFECT["sadness"][1]


def test_a_word_speaks_of_one_emotion():
    for lists in (FEELINGS, REMINDERS):
        words = [word for ways in lists.values() for word in ways]
        assert lists.keys() == set(EMOTIONS)
        assert len(words) == len(set(words))


def test_aspects_are_drawn():
    for palette, colours in PALETTES.items():
        pixels = draw(palette, "still", "open", 32, seed=1).reshape(-1, 3).astype(float)
        near = np.abs(pixels[:, None] - np.array(colours)).max(-1).min(1)
        assert np.mean(near < 40) > 0.9, palette

    def edges(energy):
        seen = [draw("bright", energy, "open", 48, seed).astype(float) for seed in range(4)]
        return np.mean([np.abs(np.diff(each, axis=1)).mean() for each in seen])

    assert edges("still") < edges("lively") < edges("wild")
    same = draw("warm", "still", "crowded", 32, seed=3)
    assert np.array_equal(same, draw("warm", "still", "crowded", 32, seed=3))
    assert not np.array_equal(same, draw("warm", "still", "crowded", 32, seed=4))


def test_samples_have_the_fields_of_the_schema():
    source = open_source("paintings:count=60:size=32:people=3")
    sample = source[7]
    assert sample.images["main"].decode().size == (32, 32)
    assert len(sample.captions("emotion")) == len(sample.captions("explanation")) == 3
    assert set(sample.labels) == {"majority", *ASPECTS}
    for at in range(60):
        said = Counter(source[at].captions("emotion"))
        label = source[at].labels["majority"]
        assert (label == -1) == (max(said.values()) == 1)
        if label >= 0:
            assert said[EMOTIONS[label]] == 2
    assert source.schema()["labels.palette"].classes == tuple(PHRASES["palette"])


def test_shards_keep_what_several_people_say_alike(tmp_path):
    source = open_source("paintings:count=12:size=24:people=9")
    write_shards(source, tmp_path / "out")
    again = open_source(str(tmp_path / "out" / "*.tar"))
    assert any(len(set(source[at].captions("emotion"))) < 8 for at in range(12))
    for at in range(12):
        assert felt(again[at]) == felt(source[at])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 8}, "size of paintings is 8"),
        ({"people": 1}, "people of paintings is 1; it must be from 2"),
        ({"agree": -1.0}, "agree of paintings is -1.0"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(InputError, match=said):
        World(Config(**options))
