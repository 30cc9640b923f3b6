"""Films: one thing does what the label and the caption say, the others stand still, and only the order
of the frames tells an action from its reverse."""

import numpy as np
import pytest

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.worlds import build
from diptych.data.worlds.scenes.film import ACTIONS, frames
from diptych.data.worlds.scenes.parse import mistakes, parse
from diptych.errors import InputError

V = 6
WORLD = build("scenes", {"film": V, "number": "1-3"})
REVERSED = {
    "moves left": "moves right",
    "moves up": "moves down",
    "disappears": "appears",
    "shrinks": "grows",
}


def film_of(scene):
    """The thing of a scene's clip in each frame, None where it is not there, and the others."""
    concept = scene.things[scene.film.about].concept
    states = []
    others = []
    for frame in frames(scene, V):
        states.append(next((one for one in frame.things if one.concept == concept), None))
        others.append([one for one in frame.things if one.concept != concept])
    return states, others


@pytest.mark.parametrize("index", range(60))
def test_one_thing_does_what_the_label_says_and_the_others_stand_still(index):
    scene = WORLD.sample(0, index)
    states, others = film_of(scene)
    assert all(each == others[0] for each in others)
    action = scene.film.action
    there = [state is not None for state in states]
    if action in ("appears", "disappears"):
        assert there == sorted(there, reverse=action == "disappears")
        assert there[0] != there[-1]
        return
    x, y, side = (
        np.diff([getattr(state.items[0], name) for state in states]) for name in ("x", "y", "side")
    )
    moved = {"moves left": -x, "moves right": x, "moves up": -y, "moves down": y}
    moved |= {"grows": side, "shrinks": -side}
    if action in moved:
        assert (moved[action] > 0.005).all()
        assert states[0].colour == states[-1].colour
    else:
        assert states[0].colour != states[-1].colour
        assert not x.any()
        assert not y.any()
        assert not side.any()


def places(thing):
    [item] = thing.items
    return np.array([item.x, item.y, item.side])


def test_an_action_and_its_reverse_have_the_same_frames_in_distribution():
    """The mean of the two ends, and the still image, are alike for an action and its reverse."""
    found = {}
    for index in range(1500):
        scene = WORLD.sample(1, index)
        film = scene.film
        ends = [places(thing) for thing in (film.before, film.after) if thing]
        still = places(scene.things[film.about])
        found.setdefault(film.action, []).append([*np.mean(ends, axis=0), *still])
    assert set(found) == set(ACTIONS)
    assert min(map(len, found.values())) > 1500 / len(ACTIONS) * 0.6
    for one, other in REVERSED.items():
        a, b = np.array(found[one]), np.array(found[other])
        error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        assert (abs(a.mean(0) - b.mean(0)) < 4 * error).all()


@pytest.mark.parametrize("split", ["train", "test", "unseen", "novel"])
def test_what_a_split_holds_out_is_in_no_frame_of_another(split):
    world = build("scenes", {"film": 4, "split": split, "number": "1-2"})
    for index in range(40):
        scene = world.sample(0, index)
        for thing in (scene.film.before, scene.film.after):
            if thing is not None and split == "train":
                places = [item.place for item in thing.items]
                assert world.catalogue.unseen(thing.concept, thing.colour, places) == 0


def test_a_sample_has_its_frames_a_still_image_a_label_and_a_text_that_tells_the_action(tmp_path):
    source = open_source(f"scenes:film={V}:count=24:size=32")
    write_shards(source, tmp_path / "out")
    back = open_source(f"{tmp_path}/out/*.tar:frames={V}")
    assert "images.frames" in source.schema()
    seen = []
    for old, new in zip(source, back, strict=True):
        whole = [np.asarray(frame) for frame in old.images["frames"].frames()]
        assert np.array_equal(whole, [np.asarray(f) for f in new.images["frames"].frames()])
        action = list(ACTIONS)[old.labels["action"]]
        shown = np.asarray(old.images["main"].decode())
        ends = {"appears": whole[-1:], "disappears": whole[:1]}.get(action, [whole[0], whole[-1]])
        assert any(np.array_equal(shown, end) for end in ends)
        assert np.array_equal(shown, np.asarray(new.images["main"].decode()))
        told = old.captions()[0].rpartition(";")[2]
        assert mistakes(parse(old.captions()[0]), source.world.sample(0, len(seen))) == []
        seen.append(action)
        ways = [way.partition(" {")[0] for way in ACTIONS[action]]
        assert any(way in told for way in ways)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("film=1", "one frame shows no action"),
        ("film=99", "must be 0 to 64"),
        ("film=8:edits=swap", "leave out edits"),
        ("film=8:pages=2", "documents have no films"),
    ],
)
def test_films_that_cannot_be_made_are_refused(options, problem):
    with pytest.raises(InputError, match=problem):
        open_source(f"scenes:{options}")


def test_captions_of_films_are_judged_true_and_those_of_others_false():
    source = open_source("scenes:film=5:count=40:number=1-3")
    scenes = [source.world.sample(0, at) for at in range(40)]
    captions = [sample.captions()[0] for sample in source]
    for caption, scene in zip(captions, scenes, strict=True):
        stated, true = source.world.judge(caption, scene)
        assert stated == true > 2
    others = [source.world.judge(captions[at - 1], scene) for at, scene in enumerate(scenes)]
    assert sum(true for _, true in others) < 0.2 * sum(stated for stated, _ in others)


def test_what_happens_is_a_fact_of_its_own():
    world = open_source("scenes:film=5").world
    scene = next(
        scene for at in range(99) if (scene := world.sample(0, at)).film.action == "moves left"
    )
    thing = scene.things[scene.film.about].concept
    assert world.judge(f"the {thing} slides left.", scene) == (1, 1)
    assert world.judge(f"A text. The {thing} goes to the right!", scene) == (1, 0)
    assert world.judge("the unicorn slides left", scene) == (1, 0)
    assert world.judge(f"the {thing} turns red", scene) == (1, 0)
    assert world.judge("nothing is said", scene) == (0, 0)
