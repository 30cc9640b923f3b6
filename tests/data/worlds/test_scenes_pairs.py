"""Pairs of captions with a graded similarity."""

from collections import Counter

import pytest

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.worlds import build
from diptych.data.worlds.scenes.pairs import facts, partner, similarity
from diptych.data.worlds.scenes.parse import parse
from diptych.errors import InputError


def world(**options):
    return build("scenes", {"pair": "graded", **options})


@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_each_number_of_shared_facts_is_as_frequent(number):
    made = world(number=number, same=0.0)
    seen = Counter()
    for index in range(600):
        scene = made.sample(0, index)
        other = partner(scene, made.config, made.catalogue)
        assert len(facts(scene)) == len(facts(other)) == 1 + 5 * int(number)
        seen[len(facts(scene).items() & facts(other).items())] += 1
    assert sorted(seen) == list(range(2 + 5 * int(number)))
    expected = 600 / len(seen)
    assert all(0.4 * expected < count < 1.8 * expected for count in seen.values())


def test_similarity_is_symmetric_and_one_for_a_scene_itself():
    made = world(number="1-4", styles="all")
    for index in range(100):
        scene = made.sample(1, index)
        other = partner(scene, made.config, made.catalogue)
        assert similarity(scene, scene) == 1
        assert similarity(scene, other) == similarity(other, scene)


def test_captions_state_all_facts_of_both_scenes():
    """Read back by the parser of captions."""
    made = world(number=1)
    for index in range(200):
        scene = made.sample(2, index)
        other = partner(scene, made.config, made.catalogue)
        texts = {text.role: text.text for text in made.captions(scene)}
        for role, which in (("caption", scene), ("pair", other)):
            thing = which.things[0]
            found = str(parse(texts[role]))
            for value in (thing.concept, thing.colour, thing.texture, thing.place):
                assert value in found, texts[role]


@pytest.mark.parametrize("split", ["train", "val", "unseen", "test"])
def test_nothing_that_training_holds_out_is_added(split):
    made = world(number="1-2", split=split, same=0.0)
    for index in range(150):
        scene = made.sample(0, index)
        other = partner(scene, made.config, made.catalogue)
        concepts = [thing.concept for thing in other.things]
        assert len(set(concepts)) == len(concepts)
        if split not in ("train", "val"):
            continue
        for thing in other.things:
            assert thing.colour in made.catalogue.values(thing.concept, "colour", "seen")
            assert thing.place in made.catalogue.values(thing.concept, "place", "seen")


def test_the_pair_has_words_of_its_own_and_the_image_is_that_of_the_caption():
    source = open_source("scenes:pair=graded:number=1:count=60")
    plain = open_source("scenes:drop=0:number=1:count=60")
    same = [
        sample for sample in map(source.__getitem__, range(60)) if sample.labels["similarity"] == 1
    ]
    assert same
    assert any(sample.captions()[0] != sample.captions("pair")[0] for sample in same)
    for at in range(5):
        assert source[at].captions() == plain[at].captions()
        assert (
            source[at].images["main"].decode().tobytes()
            == plain[at].images["main"].decode().tobytes()
        )
        assert "pair" not in source[at].labels


def test_pairs_go_through_shards(tmp_path):
    source = open_source("scenes:pair=graded:number=1:size=32:count=4")
    write_shards(source, tmp_path)
    again = open_source(f"{tmp_path}/*.tar")
    for at in range(4):
        assert again[at].captions("pair") == source[at].captions("pair")
        assert again[at].labels["similarity"] == pytest.approx(source[at].labels["similarity"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("pair=inference", "graded"),
        ("pair=graded:noise=swap=0.1", "leave out noise"),
        ("pair=graded:pages=2", "leave out noise and pages"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        open_source(f"scenes:{options}")


def test_a_world_without_other_values_says_so():
    made = world(number=1, objects="cat", colours="red", held_out=0.0)
    scenes = [made.sample(0, index) for index in range(50)]
    with pytest.raises(InputError, match="give more objects"):
        [made.captions(scene) for scene in scenes]
