"""The world `tools`: the heat lies on the part that the verb touches, hands touch it where there is an
actor, and relations are those of the parts."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.data.worlds.tools import World
from diptych.data.worlds.tools.draw import SKIN
from diptych.data.worlds.tools.words import PARTS, SETS, SYNONYMS, TOOLS, VERBS, related, verbs_of
from diptych.errors import InputError


def read(spec: str) -> list:
    source = open_source(spec)
    return [(source.world.sample(source.seed, at), source[at]) for at in range(len(source))]


def test_heat_is_the_part_that_the_verb_touches():
    for facts, sample in read("tools:count=40:actor=false"):
        heat = np.asarray(sample.masks["heat"].decode(), float)
        parts = np.asarray(sample.masks["part"].decode())
        assert facts.part in TOOLS[facts.tool]
        own = parts == PARTS.index(facts.part) + 1
        assert own.sum() >= 12
        assert heat[own].mean() > 3 * heat[~own].mean()
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert own[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].any()


def test_all_parts_of_a_tool_are_seen():
    for facts, sample in read("tools:count=60:actor=false:size=48"):
        shown = {PARTS[number - 1] for number in np.unique(sample.masks["part"].decode()) if number}
        assert shown == set(TOOLS[facts.tool])


def test_an_actor_touches_the_part_and_another_hand_nothing():
    for (facts, sample), (same, _) in zip(
        read("tools:count=30"), read("tools:count=30:actor=false"), strict=True
    ):
        assert len(facts.hands) == 2
        assert facts.hands[1:] == same.hands
        assert (facts.tool, facts.verb, facts.pose) == (same.tool, same.verb, same.pose)
        pixels = np.asarray(sample.images["main"].decode(), int)
        side = pixels.shape[0]
        for x, y in facts.hands:
            place = round((y + 1) / 2 * side - 0.5), round((x + 1) / 2 * side - 0.5)
            assert np.abs(pixels[place] - SKIN).max() < 12
        x, y = ((np.array(facts.hands[0]) + 1) / 2 * side).astype(int)
        parts = np.asarray(sample.masks["part"].decode())
        near = parts[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
        assert PARTS.index(facts.part) + 1 in near


def test_a_second_hand_goes_astray_as_often_as_told_and_all_else_stays():
    spec = "tools:count=200:seed=4"
    astray = 0
    for (plain, sample), (facts, other) in zip(read(spec), read(f"{spec}:astray=0.5"), strict=True):
        assert replace(facts, hands=plain.hands) == plain
        assert facts.hands[0] == plain.hands[0]
        assert sample.texts == other.texts
        if facts.hands != plain.hands:
            astray += 1
            x, y = ((np.array(facts.hands[1]) + 1) / 2 * 64).astype(int)
            near = np.asarray(other.masks["part"].decode())[
                max(0, y - 3) : y + 4, max(0, x - 3) : x + 4
            ]
            touched = {PARTS[number - 1] for number in np.unique(near) if number}
            assert touched & set(TOOLS[facts.tool]) - {facts.part, "guard"}
    assert 75 <= astray <= 125
    assert all(
        facts.hands[1] != plain.hands[1]
        for (plain, _), (facts, _) in zip(
            read("tools:count=9"), read("tools:count=9:astray=1"), strict=True
        )
    )


def test_relations_are_those_of_parts_and_synonyms_are_no_verbs():
    table = related()
    for verb, others in table.items():
        for other in VERBS:
            assert (other in others) == (other != verb and VERBS[other] == VERBS[verb])
    words = [word for each in SYNONYMS.values() for word in each]
    assert set(SYNONYMS) == set(VERBS)
    assert len(words) == len(set(words)) == 3 * len(VERBS)
    assert not set(words) & set(VERBS)


def test_texts_and_labels():
    source = open_source("tools:count=200:seed=2")
    schema = source.schema()
    seen = set()
    for sample in source:
        verb = schema["labels.verb"].classes[sample.labels["verb"]]
        tool = schema["labels.object"].classes[sample.labels["object"]]
        assert sample.captions("verb") == [verb]
        assert sample.captions()[0].startswith(f"a {tool} on ")
        assert verb not in sample.captions()[0]
        assert verb in verbs_of(tool)
        seen.add((tool, verb))
    assert len(seen) == sum(len(verbs_of(tool)) for tool in TOOLS)


def test_tools_can_be_held_out_and_verbs_chosen():
    for name in ("seen", "unseen"):
        tools = {facts.tool for facts, _ in read(f"tools:tools={name}:count=60")}
        assert tools == set(SETS[name])
    chosen = "tools:verbs=hold+cut with+hit with:count=60"
    assert {facts.verb for facts, _ in read(chosen)} == {"hold", "cut with", "hit with"}
    assert {PARTS.index(VERBS[verb]) for verb in VERBS} == {
        PARTS.index(part) for part in PARTS if part != "guard"
    }


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("tools:size=16", "from 32 to 256"),
        ("tools:split=tset", "did you mean 'test'"),
        ("tools:astray=2", "it must be from 0 to 1"),
        ("tools:astray=1:actor=false", "without an actor no hand touches a part"),
        ("tools:tools=sean", "did you mean 'seen'"),
        ("tools:verbs=holt", "did you mean 'hold'"),
        ("tools:verbs=cut with", "no verb of verbs=cut with touches a hammer"),
    ],
)
def test_bad_options_are_refused(spec, said):
    with pytest.raises(InputError, match=said):
        open_source(spec)


def test_samples_depend_on_seed_and_index_alone():
    world = World(open_source("tools").world.config)
    assert world.sample(1, 5) == world.sample(1, 5) != world.sample(1, 6)
