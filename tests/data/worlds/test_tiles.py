"""The world `tiles`: neighbours are alike, splits are blocks apart, captions tell what is drawn, and
indicators follow from the place."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.data.worlds.tiles import ASPECTS, INDICATORS, Config, World, indicators
from diptych.data.worlds.tiles.draw import SEASONS, Counts, draw
from diptych.data.worlds.tiles.plan import BLOCK, PROPERTIES, SPLITS, place_of, properties
from diptych.errors import InputError


def facts_of(count=256, **options):
    world = World(Config(**options))
    return world, [world.sample(0, index) for index in range(count)]


def test_splits_are_blocks_that_share_no_tile():
    places = {split: [place_of(split, at) for at in range(640)] for split in SPLITS}
    found = [place for each in places.values() for _, place in each]
    assert len(set(found)) == 3 * 640
    blocks = {split: {block % 10 for block, _ in each} for split, each in places.items()}
    assert blocks == {"train": set(range(8)), "val": {8}, "test": {9}}
    for block, (x, y) in places["train"]:
        assert (x // BLOCK, y // BLOCK) == (block % 64, block // 64)


def test_neighbours_are_alike_and_cities_differ():
    def off(a, b):
        return np.mean([abs(a[name] - b[name]) for name in PROPERTIES])

    rng = np.random.default_rng(0)
    near, far, other = [], [], []
    for x, y in rng.integers(0, 400, (200, 2)).tolist():
        here = properties(0, 1, (x, y))
        near.append(off(here, properties(0, 1, (x + 1, y))))
        far.append(off(here, properties(0, 1, (x + 150, y + 90))))
        other.append(off(here, properties(0, 2, (x, y))))
    assert np.mean(near) < np.mean(far) / 3
    assert np.mean(other) > 2 * np.mean(near)
    assert all(0 <= value <= 1 for value in properties(3, 2, (7, 7)).values())


def test_indicators_follow_from_the_place():
    _, exact = facts_of(noise=0.0)
    _, noisy = facts_of(noise=0.3)
    for one, other in zip(exact, noisy, strict=True):
        there = {name: getattr(one, name) for name in PROPERTIES}
        assert one.indicators == pytest.approx(indicators(there))
        assert one.counts == other.counts
    off = np.array([a.indicators for a in noisy]) - np.array([a.indicators for a in exact])
    assert off.std() == pytest.approx(0.3, rel=0.15)


def test_more_of_a_thing_is_said_where_more_is_drawn():
    world, facts = facts_of(1500)
    told = {aspect: [] for aspect in ASPECTS}
    counts = [
        (f.counts.buildings, f.counts.works, f.counts.roads, f.counts.trees, f.counts.water)
        for f in facts
    ]
    for each in facts:
        text = world.captions(each)[0].text.replace(" and ", ", ").split(", ")
        assert len(text) == len(ASPECTS)
        for aspect, phrase in zip(ASPECTS, text, strict=True):
            told[aspect].append(phrase)
    for at, phrases in enumerate(told.values()):
        ranges = {}
        for phrase, count in zip(phrases, counts, strict=True):
            low, high = ranges.get(phrase, (count[at], count[at]))
            ranges[phrase] = (min(low, count[at]), max(high, count[at]))
        ordered = sorted(ranges.values())
        assert len(ordered) >= 3
        assert all(a[1] < b[0] for a, b in pairwise(ordered))


def test_wrong_aspects_and_one_that_is_left_out():
    right, facts = facts_of(300)
    wrong = World(Config(wrong=0.5))
    less = World(Config(less="water"))
    changed = Counter()
    for each in facts:
        said, other, fewer = (
            world.captions(each)[0].text.replace(" and ", ", ").split(", ")
            for world in (right, wrong, less)
        )
        changed.update(at for at in range(5) if said[at] != other[at])
        assert fewer == said[:4]
    assert all(0.38 < changed[at] / 300 < 0.62 for at in range(5))


def test_indicators_are_not_told():
    world, facts = facts_of(50)
    for each in facts:
        text = world.captions(each)[0].text
        assert not any(word in text for word in INDICATORS)
        assert not any(letter.isdigit() for letter in text)


def test_what_is_counted_is_drawn():
    nothing = Counts(buildings=0, works=0, trees=0, roads=0, water=0.0)
    for season, (ground, _) in SEASONS.items():
        plain = draw(nothing, season, 1.0, 32, seed=3).astype(int)
        assert np.abs(plain.mean((0, 1)) - ground).max() < 3
    wet = draw(Counts(**{**vars_of(nothing), "water": 0.2}), "summer", 1.0, 48, seed=3).astype(int)
    blue = (wet[..., 2] > wet[..., 0] + 30).mean()
    assert 0.08 < blue < 0.4
    dark = draw(nothing, "summer", 0.6, 32, seed=3).mean()
    assert dark < 0.7 * draw(nothing, "summer", 1.0, 32, seed=3).mean()


def vars_of(counts):
    return {name: getattr(counts, name) for name in counts.__dataclass_fields__}


def test_samples_have_the_fields_of_the_schema():
    source = open_source("tiles:count=70:size=32:split=val:city=3")
    sample = source[65]
    assert sample.images["main"].decode().size == (32, 32)
    assert set(sample.labels) == {*INDICATORS, "block"}
    assert sample.arrays["place"].tolist() == [float(v) for v in sample.key.split("_")[1:]]
    assert source.schema()["labels.carbon"].kind == "float"
    assert len({source[at].key for at in range(70)}) == 70


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "dev"}, "unknown split of tiles 'dev'"),
        ({"less": "sky"}, "unknown aspect of tiles to leave out 'sky'"),
        ({"size": 8}, "size of tiles is 8"),
        ({"city": 0}, "cities are numbered from 1"),
        ({"wrong": 2.0}, "wrong of tiles is 2.0; it is a share"),
        ({"noise": -1.0}, "noise of tiles is -1.0"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(InputError, match=said):
        World(Config(**options))


def test_a_city_ends():
    with pytest.raises(
        InputError, match="a city of tiles has 262,144 tiles, of which the split val"
    ):
        World(Config(split="val")).sample(0, 300_000)
