"""Scenes with usual colours: their rate, twins that break them, and questions that a prior answers."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.worlds import build
from diptych.data.worlds.scenes.concepts import COMMON
from diptych.data.worlds.scenes.config import ASKED, RESERVED
from diptych.data.worlds.scenes.words import COLOURS
from diptych.data.wrap import Only
from diptych.errors import InputError
from diptych.evaluation.suites.answers import questions, twins
from diptych.methods.fuse.s_vco.pairs import responses


def world(**options):
    return build("scenes", {"bias": 0.9, **options})


def pairs(scene):
    return [(thing.concept, thing.colour) for thing in scene.known]


def without_colours(scene):
    return replace(scene, things=tuple(replace(thing, colour="") for thing in scene.things))


def test_every_concept_has_a_usual_colour_that_depends_on_names_alone():
    usual = world().usual
    assert tuple(usual) == COMMON
    assert len(set(usual.values())) > len(COLOURS) // 2
    for split in ("val", "test"):
        assert world(split=split, number=3, same=0.1).usual == usual
    assert set(world(split="novel").usual) == set(RESERVED)
    some = world(objects="cat+bus", same=1.0, number=1).usual
    assert some == {name: usual[name] for name in ("cat", "bus")}
    assert build("scenes", {}).usual == {}


@pytest.mark.parametrize("options", [{"number": 1}, {"number": 2, "same": 0.0}, {"number": "1-4"}])
@pytest.mark.parametrize("bias", [0.0, 0.3, 0.9, 1.0])
def test_objects_have_their_usual_colour_at_the_rate(options, bias):
    made = world(bias=bias, **options)
    agree = [
        colour == made.usual[name]
        for at in range(300)
        for name, colour in pairs(made.sample(0, at))
    ]
    spread = np.sqrt(bias * (1 - bias) / len(agree))
    assert abs(np.mean(agree) - bias) <= 3.5 * spread


def test_other_colours_are_all_drawn():
    made = world(bias=0.0, objects="cat", number=1, same=1.0)
    seen = {made.sample(0, at).things[0].colour for at in range(200)}
    assert seen == set(made.catalogue.values("cat", "colour", "seen")) - {made.usual["cat"]}


def test_another_bias_changes_colours_alone():
    """With the same draws, so that models of two biases see the same scenes otherwise."""
    often, never = world(bias=0.9), world(bias=0.0)
    for at in range(60):
        assert without_colours(often.sample(0, at)) == without_colours(never.sample(0, at))
        assert all(colour != often.usual[name] for name, colour in pairs(never.sample(0, at)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_colours_and_their_edits_show_nothing_that_is_held_out(split):
    made = world(split=split, edits="all", number="1-3")
    for at in range(60):
        scene = made.sample(0, at)
        after = [made.edited(scene, kind) for kind in ("replace", "add", "recolour", "swap")]
        for name, colour in [
            pair for each in (scene, *filter(None, after)) for pair in pairs(each)
        ]:
            assert colour in made.catalogue.values(name, "colour", "seen")


def test_added_objects_follow_the_bias():
    for bias in (0.0, 1.0):
        made = world(bias=bias, number=1)
        added = [made.edited(made.sample(0, at), "add") for at in range(40)]
        new = [dict(pairs(scene))[scene.change.about[0]] for scene in added if scene]
        names = [scene.change.about[0] for scene in added if scene]
        assert len(new) > 30
        assert {made.usual[name] == colour for name, colour in zip(names, new, strict=True)} == {
            bool(bias)
        }


def test_one_of_a_scene_and_its_twin_has_the_usual_colour():
    made = world(bias=0.5, number="1-3", same=0.3)
    for at in range(80):
        scene = made.sample(0, at)
        twin = made.edited(scene, "recolour")
        [name] = twin.change.about
        before, after = dict(pairs(scene)), dict(pairs(twin))
        assert {other for other in before if before[other] != after[other]} == {name}
        assert made.usual[name] in (before[name], after[name])
        assert without_colours(twin).things == without_colours(scene).things


def test_labels_say_whether_a_scene_agrees_with_the_prior():
    source = open_source(
        "scenes:bias=0.6:number=1-2:count=40:texts=caption:edits=recolour:tinted=0.8"
    )
    schema = source.schema()
    assert schema["labels.prior"].classes == ("against", "agrees")
    assert schema["labels.usual"].classes == tuple(COLOURS)
    seen = set()
    usual = source.world.usual
    for at, sample in enumerate(source):
        scene = source.world.sample(0, at)
        agrees = [colour == usual[name] for name, colour in pairs(scene) if colour]
        expected = -1 if not agrees else int(all(agrees))
        assert sample.labels["prior"] == expected
        assert tuple(COLOURS)[sample.labels["usual"]] == usual[scene.things[0].concept]
        seen.add(expected)
        if len(scene.things) == 1 and agrees:
            assert [edit.labels["prior"] for edit in sample.edits] == [1 - expected]
    assert seen == {-1, 0, 1}
    assert not {"labels.prior", "labels.usual"} & set(open_source("scenes:count=1").schema())


def test_questions_about_colours_are_answered_as_the_scene_is():
    made = world(bias=0.5, number="1-2", texts="question", asks="colour")
    kinds = set()
    for at in range(80):
        scene = made.sample(1, at)
        texts = made.captions(scene)
        colours = dict(pairs(scene))
        asked = list(zip(texts[::2], texts[1::2], strict=True))
        assert len(asked) == 2 * len(scene.things)
        for question, answer in asked:
            [name] = [
                thing.concept for thing in scene.things if thing.ids == question.attrs["objects"]
            ]
            usual = made.usual[name]
            assert question.attrs["usual"] == (colours[name] == usual)
            assert answer.text in question.attrs["choices"]
            if question.text.startswith("what colour"):
                assert answer.text == colours[name]
                assert usual in question.attrs["choices"]
                assert len(question.attrs["choices"]) == 4
            else:
                assert question.text.split()[0] in ("is", "are")
                assert question.text.endswith(f" {usual}?")
                assert answer.text == ("yes" if colours[name] == usual else "no")
                assert set(question.attrs["choices"]) == {"yes", "no"}
            kinds.add((question.text.split()[0], question.attrs["usual"]))
    assert {flag for _, flag in kinds} == {True, False}
    assert {word for word, _ in kinds} == {"what", "is", "are"}


def test_a_twin_answers_both_questions_differently_and_as_a_pair():
    source = open_source(
        "scenes:bias=0.9:number=1:texts=question:asks=colour:edits=recolour:count=40"
    )
    for sample in source:
        [edit] = sample.edits
        assert len(twins(edit, questions(sample, True), True)) == 2
        assert len(responses(sample, edit)) == 2


def test_a_guess_by_the_prior_is_right_at_its_rate_and_never_against_it():
    """Accuracy of the answers that a reader of questions alone gives, which is the language prior."""
    for bias, expected in ((0.9, 0.9), (0.0, 0.0)):
        source = open_source(f"scenes:bias={bias}:number=1:texts=question:asks=colour:count=200")
        usual = source.world.usual
        right = []
        for sample in source:
            name = next(each for each in usual if f" {each}" in sample.captions("question")[0])
            right += [each in (usual[name], "yes") for each in sample.captions("answer")]
        assert abs(np.mean(right) - expected) <= 0.06


@pytest.mark.parametrize("kind", ASKED)
def test_questions_are_about_the_facts_that_are_named(kind):
    options = {"overlay": 1.0} if kind == "stamp" else {}
    named = build("scenes", {"texts": "question", "asks": kind, **options})
    starts = {
        "number": ("how many things", "how many objects"),
        "there": ("how many", "is there a"),
        "colour": ("what colour",),
        "texture": ("what pattern",),
        "size": ("how large",),
        "place": ("where is", "what is in", "what is at"),
        "ground": ("what is the ground",),
        "stamp": ("what is stamped",),
    }[kind]
    asked = [
        text.text
        for at in range(40)
        for text in named.captions(named.sample(0, at))
        if text.role == "question"
    ]
    assert asked
    assert all(text.startswith(starts) for text in asked)


def test_all_is_every_kind_of_question():
    world_of = [build("scenes", {"asks": asks}) for asks in ("all", "+".join(ASKED[:-1]))]
    for at in range(30):
        one, other = (made.captions(made.sample(0, at)) for made in world_of)
        assert one == other


def test_twins_and_labels_survive_shards(tmp_path):
    spec = "scenes:bias=0.5:number=1:texts=question:asks=colour:edits=recolour:count=2"
    fields = ("images.main", "texts.question", "texts.answer", "labels.prior", "edits")
    source = open_source(spec)
    write_shards(Only(source, fields), tmp_path)
    for mine, theirs in zip(source, open_source(f"{tmp_path}/*.tar"), strict=True):
        assert len(theirs.edits) == 1
        for one, other in ((mine, theirs), (mine.edits[0], theirs.edits[0])):
            assert other.labels["prior"] == one.labels["prior"]
            assert other.captions("answer") == one.captions("answer")
            assert other.arrays["question_usual"].tolist() == [one.labels["prior"]] * 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bias=1.5", "it must be 0 to 1"),
        ("bias=often", "'bias' of world 'scenes' is 'often'"),
        ("bias=0.9:split=unseen", "leave out bias"),
        ("bias=0.9:film=4", "leave out bias"),
        ("bias=0.9:pair=graded", "leave out bias"),
        ("bias=0.9:colours=red", "give more colours, or lower held_out"),
        ("asks=colours", "did you mean 'colour'"),
        ("asks=stamp", "give their share, such as overlay=0.5"),
    ],
)
def test_bad_options_are_refused_with_a_remedy(spec, message):
    with pytest.raises(InputError, match=message):
        open_source(f"scenes:{spec}")
