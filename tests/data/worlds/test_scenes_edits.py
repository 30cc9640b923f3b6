"""Edits change what they say, in the facts, the image and the texts, and nothing else."""

import re
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.data.worlds import WorldSource, build
from diptych.data.worlds.scenes.config import EDITS
from diptych.data.worlds.scenes.parse import mistakes, parse
from diptych.errors import InputError

OPTIONS = {"number": "1-4", "edits": "all", "styles": "seen"}


@pytest.fixture(scope="module")
def edited():
    """(before, after) of many edits, by kind."""
    world = build("scenes", OPTIONS)
    found = {kind: [] for kind in EDITS}
    for index in range(100):
        before = world.sample(0, index)
        for kind in EDITS:
            if (after := world.edited(before, kind)) is not None:
                found[kind].append((before, after))
    return world, found


def changed(before, after):
    """The fields of the scene, and of which objects, that differ."""
    scene = {
        item.name
        for item in fields(before)
        if getattr(before, item.name) != getattr(after, item.name)
    }
    old = {thing.ids[0]: thing for thing in before.things}
    new = {thing.ids[0]: thing for thing in after.things}
    things = {
        at: "gone"
        if at not in new
        else "new"
        if at not in old
        else {
            item.name
            for item in fields(old[at])
            if getattr(old[at], item.name) != getattr(new[at], item.name)
        }
        for at in {*old, *new}
        if old.get(at) != new.get(at)
    }
    return scene - {"before", "change"}, things


def test_every_kind_is_possible_often(edited):
    _, found = edited
    assert {kind: len(pairs) for kind, pairs in found.items() if len(pairs) < 30} == {}


def test_facts_change_in_one_thing_alone(edited):
    _, found = edited
    for kind, pairs in found.items():
        for before, after in pairs:
            scene, things = changed(before, after)
            assert scene == {"things"}
            change = after.change
            assert change.kind == kind
            concepts = {thing.ids[0]: thing.concept for thing in (*after.things, *before.things)}
            assert [concepts[at] for at in sorted(things)] == sorted(
                change.about, key=list(concepts.values()).index
            ) or kind == "swap"
            if kind == "swap":
                assert {concepts[at] for at in things} == set(change.about)
                assert all(
                    what == ({"colour"} if change.aspect == "colours" else {"items"})
                    for what in things.values()
                )
                a, b = (
                    [next(t for t in s.things if t.ids[0] == at) for at in sorted(things)]
                    for s in (before, after)
                )
                aspect = "colour" if change.aspect == "colours" else "place"
                assert [getattr(t, aspect) for t in a] == [getattr(t, aspect) for t in b[::-1]]
            else:
                ((at, what),) = things.items()
                assert (
                    what
                    in {
                        "replace": (
                            {"concept"},
                            {"concept", "items"},
                        ),  # another design may draw it
                        "add": ("new",),
                        "remove": ("gone", {"items"}),
                        "recolour": ({"colour"},),
                        "move": ({"items"},),
                    }[kind]
                )
                assert at not in (0,) or kind != "remove" or what == {"items"}


def test_pixels_change_at_the_changed_objects_and_nowhere_far(edited):
    world, found = edited
    for kind, pairs in found.items():
        for before, after in pairs[:12]:
            old, new = world.render(before), world.render(after)
            differ = (np.asarray(old.image) != np.asarray(new.image)).any(-1)
            near = np.zeros_like(differ)
            moved = [
                item.id
                for item in (*before.items, *after.items)
                if shown(before, item.id) != shown(after, item.id)
            ]
            assert moved
            for scene in (before, after):
                for item in scene.items:
                    if item.id in moved:
                        x0, y0, x1, y1 = whole(world, scene, item.id)
                        near[max(y0 - 8, 0) : y1 + 8, max(x0 - 8, 0) : x1 + 8] = True
            assert differ.any(), kind
            assert not differ[~near].any(), kind


def shown(scene, at):
    """An object with its looks; None where it is not there."""
    return next(
        (
            (item, thing.concept, thing.colour)
            for thing in scene.things
            for item in thing.items
            if item.id == at
        ),
        None,
    )


def whole(world, scene, at):
    """The box of an object drawn alone."""
    things = [replace(t, items=tuple(i for i in t.items if i.id == at)) for t in scene.things]
    alone = replace(scene, things=tuple(t for t in things if t.items))
    return [int(value) for value in world.render(alone).boxes[0].xyxy]


def captions(world, scene, role="caption"):
    return [text.text for text in world.captions(scene) if text.role == role]


def test_captions_follow_the_edit_and_keep_their_words(edited):
    world, found = edited
    for kind, pairs in found.items():
        for before, after in pairs[:40]:
            (old,), (new,) = captions(world, before), captions(world, after)
            assert old != new
            assert mistakes(parse(new), after) == []
            assert (
                mistakes(parse(new), before) != [] or kind == "remove"
            )  # what is left of a scene is true of it
            assert mistakes(parse(old), after) != [] or kind == "add"
            lost, won = (
                Counter(old.split()) - Counter(new.split()),
                Counter(new.split()) - Counter(old.split()),
            )
            articles = Counter({"a": 9, "an": 9})
            if kind == "recolour":
                assert sum((won - articles).values()) == sum((lost - articles).values()) == 1
                assert after.change.value in {word.strip(",:.") for word in won}
            if kind == "swap" and after.change.aspect == "colours":
                assert bag(old) == bag(new)


def bag(text):
    """The words of a text in alphabetical order, "an" as "a"."""
    return sorted(re.sub(r"[,:.]", "", text).replace(" an ", " a ").split())


def test_instructions_name_what_is_changed(edited):
    world, found = edited
    verbs = {"swap": "swap", "replace": ("replace", "turn"), "add": ("add", "put"), "remove": ("remove", "take"),
             "recolour": ("make", "paint"), "move": ("move", "put")}  # fmt: skip
    forms = Counter()
    for kind, pairs in found.items():
        for _, after in pairs:
            (text,) = captions(world, after, "instruction")
            assert any(
                word in text.split()
                for word in ([verbs[kind]] if isinstance(verbs[kind], str) else verbs[kind])
            )
            nouns = [thing.noun for thing in parse(text).things]
            about = [*after.change.about, *([after.change.value] if kind == "replace" else [])]
            assert set(nouns) <= set(about)
            assert nouns[0] == about[0]
            if kind in ("add", "move"):
                assert parse(text).things[0].place == after.change.value
            if kind == "recolour":
                assert parse(text).things[0].colour == after.change.value
            forms[kind, text.split()[0]] += 1
    assert len(forms) == 2 * len(EDITS)


def test_samples_bring_their_edits_with_both_images():
    source = open_source("scenes:count=12:number=2:same=0:edits=swap+move")
    kinds = Counter()
    for sample in source:
        assert sample.kind == ""
        for edit in sample.edits:
            kinds[edit.kind] += 1
            assert edit.key == f"{sample.key}/{edit.kind}"
            assert (
                edit.images["reference"].read()
                == sample.images["main"].read()
                != edit.images["main"].read()
            )
            assert len(edit.captions("instruction")) == 1
            assert edit.labels.keys() == sample.labels.keys()
            assert edit.edits == []
    assert kinds.keys() == {"swap", "move"}
    assert "edits" not in open_source("scenes").schema()


def test_edits_with_clutter_are_about_what_captions_speak_of():
    world = build("scenes", {"number": 4, "same": 0, "described": 2, "edits": "all"})
    for index in range(40):
        before = world.sample(0, index)
        for kind in EDITS:
            after = world.edited(before, kind)
            if after is not None:
                assert captions(world, before) != captions(world, after)


def test_turns_give_other_edits_of_a_kind():
    world = build("scenes", {"number": 1})
    scene = world.sample(0, 0)
    assert len({world.edit(scene, "recolour", turn).things[0].colour for turn in range(20)}) > 3
    assert world.edit(scene, "recolour", 3) == world.edit(scene, "recolour", 3)


def test_a_scene_without_room_for_the_asked_edits_has_siblings_of_other_kinds():
    source = WorldSource(
        build("scenes", {"siblings": 4, "edits": "replace+move"}), 4, start=4 * 2361
    )
    kinds = [sample.kind for sample in source]
    assert len(kinds) == 4
    assert not set(kinds) <= {"", "replace", "move"}


def test_siblings_differ_in_what_a_text_can_say():
    """Not in the design or the exact position of an object alone."""
    source = open_source("scenes:count=400:siblings=4:edits=replace:number=1:drop=0:texts=caption")
    for start in range(0, 400, 4):
        assert len({source[start + member].captions()[0] for member in range(4)}) == 4


def test_siblings_are_one_scene_and_different_edits_of_it():
    source = open_source("scenes:count=48:siblings=6:number=1-3")
    for group in range(8):
        scenes = [source.world.sample(0, 6 * group + member) for member in range(6)]
        samples = [source[6 * group + member] for member in range(6)]
        assert {sample.labels["scene"] for sample in samples} == {group}
        assert [sample.labels["member"] for sample in samples] == list(range(6))
        assert scenes[0].change is None
        assert "reference" not in samples[0].images
        assert len({repr(scene.things) for scene in scenes}) == 6
        for scene, sample in zip(scenes[1:], samples[1:], strict=True):
            assert scene.before == scenes[0]
            assert sample.kind == scene.change.kind
            assert sample.images["reference"].read() == samples[0].images["main"].read()
            assert len(sample.captions("instruction")) == 1
    kinds = Counter(sample.kind for sample in source)
    assert len(kinds) == 7


def test_swap_twins_lie_side_by_side():
    source = WorldSource(
        build("scenes", {"siblings": 2, "edits": "swap", "number": 2, "same": 0, "held_out": 0}), 40
    )
    for at in range(0, 40, 2):
        first, second = source[at].captions()[0], source[at + 1].captions()[0]
        assert first != second
        assert mistakes(parse(first), source.world.sample(0, at + 1)) != []
        assert source[at + 1].kind == "swap"


def test_noise_does_not_enter_edits():
    world = build("scenes", {"noise": "junk=1", "edits": "recolour", "number": 1})
    scene = world.sample(0, 0)
    after = world.edit(scene, "recolour")
    assert (scene.noise, after.noise, after.before.noise) == ("junk", "", "")
    assert mistakes(parse(captions(world, after)[0]), after) == []


def test_impossible_and_unknown_edits_are_refused():
    world = build("scenes", {"number": 1})
    with pytest.raises(InputError, match="leaves no room for the edit 'swap'"):
        world.edit(world.sample(0, 0), "swap")
    with pytest.raises(InputError, match="did you mean 'recolour'"):
        world.edit(world.sample(0, 0), "recolor")
    assert WorldSource(build("scenes", {"number": 1, "edits": "swap"}), 1)[0].edits == []


def test_an_edit_of_the_signal_changes_the_faint_lines_alone():
    world = build("scenes", {"hard": 0.5, "edits": "signal", "number": 1})
    for index in range(20):
        before = world.sample(0, index)
        after = world.edit(before, "signal")
        assert after.hard != before.hard
        assert replace(after, hard=before.hard, before=None, change=None) == before
        (text,) = captions(world, after, "instruction")
        assert after.hard in text.split()
        assert f"crossed by {after.hard} lines" in captions(world, after, "caption")[0]


def test_an_edit_of_the_signal_is_made_only_where_it_is_named():
    assert "signal" not in build("scenes", {"hard": 0.5, "edits": "all"}).config.kinds
    with pytest.raises(InputError, match="give hard="):
        build("scenes", {"edits": "signal"})
