"""Statements about two images: what they say is judged from their words alone."""

import re
from collections import Counter

import pytest

from diptych.data.sources import open_source
from diptych.data.worlds.scenes import Config, World
from diptych.data.worlds.scenes.words import plural
from diptych.errors import InputError

SPEC = "scenes:pages=2:texts=comparison:size=32"
SIZES = ("small", "medium", "large")


def says_the_truth(text, left, right):
    """Read a statement and look at the facts of both scenes."""

    def named(scene):
        words = {thing.concept: (thing.concept, plural(thing.concept)) for thing in scene.things}
        return [t for t in scene.things if re.search(rf"\b({'|'.join(words[t.concept])})\b", text)]

    if "both images show" in text or "in each of the two" in text:
        return bool(named(left)) and bool(named(right))
    if "only one of" in text or "the other does not" in text:
        return bool(named(left)) != bool(named(right))
    a, b = (
        {"left": left, "right": right}[side] for side in re.findall(r"(left|right) image", text)
    )
    if "fewer" in text or "smaller" in text:
        a, b = b, a
    if "larger" in text or "smaller" in text:
        sizes = [SIZES.index(named(scene)[0].size) for scene in (a, b)]
        return sizes[0] > sizes[1]
    counted = [scene.things if "objects" in text else named(scene) for scene in (a, b)]
    counts = [sum(thing.count for thing in things) for things in counted]
    return counts[0] > counts[1]


def test_a_statement_is_as_often_true_whatever_it_says():
    world = World(Config(pages=2, texts="comparison", size=32))
    found: dict[str, Counter[int]] = {}
    for at in range(400):
        scene = world.sample(0, at)
        sample = world.example(scene, str(at))
        [statement] = [text for text in sample.texts if text.role == "question"]
        true = says_the_truth(statement.text, scene, scene.pages[0])
        assert (sample.labels["true"], sample.captions("answer")) == (true, [str(true).lower()])
        assert statement.attrs["choices"] == ("false", "true")
        found.setdefault(statement.attrs["fact"], Counter())[true] += 1
    assert found.keys() == {"objects", "more", "larger", "both", "one"}
    for kind, count in found.items():
        assert count[True] / count.total() == pytest.approx(0.5, abs=0.12), kind
    assert world.schema()["labels.true"].classes == ("false", "true")


def test_options_without_two_images_to_compare_are_refused():
    assert "labels.true" not in open_source("scenes:pages=2").schema()
    for options, message in (
        ({"pages": "1-2"}, "give pages=2"),
        ({"pages": 2, "texts": "question+comparison"}, "leave out the other questions"),
    ):
        with pytest.raises(InputError, match=message):
            Config(**{"texts": "comparison", **options})
    alone = open_source(f"{SPEC}:objects=guitar:number=1:count=9")
    with pytest.raises(InputError, match="name more with objects"):
        [alone[at] for at in range(9)]
