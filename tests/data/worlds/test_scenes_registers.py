"""Captions in a register: they state the facts of the scene, all of them, and the same in each register."""

import re

import pytest
from tests.data.worlds.scenes_helpers import WORLDS, of, reported

from diptych.data.sources import open_source
from diptych.data.worlds.scenes.parse import mistakes, parse
from diptych.data.worlds.scenes.words import REGISTERS


@pytest.mark.parametrize("name", WORLDS)
def test_what_they_say_is_true_and_the_same_in_each_register(name):
    options = {**WORLDS[name], "texts": "+".join(("caption", *REGISTERS))}
    for scene, texts in reported(options, 40):
        [*found] = [of(texts, register)[0] for register in REGISTERS]
        facts = [parse(each.text) for each in found]
        assert mistakes(facts[0], scene) == [], found[0].text
        assert facts[0] == facts[1]
        assert found[0].text != found[1].text
        assert found[0].attrs == {"objects": of(texts, "caption")[0].attrs["objects"]}


def test_without_drop_they_leave_nothing_out():
    options = {"texts": "egocentric+uplifting", "drop": 0, "styles": "all", "number": "1-3"}
    for scene, texts in reported(options, 60):
        for text in texts:
            parsed = parse(text.text)
            assert len(parsed.things) == len(scene.known), text.text
            for thing in parsed.things:
                [own] = [each for each in scene.known if each.concept == thing.noun]
                told = (thing.colour, thing.texture, thing.size, thing.place, thing.count)
                assert told == (own.colour, own.texture, own.size, own.place, own.count)
            assert parsed.ground == scene.ground
            assert parsed.palette == (scene.palette if scene.palette != "natural" else "")
            assert parsed.rendering == (scene.rendering if scene.rendering != "flat" else "")


def test_they_are_there_if_named_and_change_no_other_text():
    plain = open_source("scenes:count=3:texts=caption")
    source = open_source("scenes:count=3:texts=caption+uplifting")
    assert "texts.uplifting" in source.schema()
    assert "texts.egocentric" not in source.schema()
    assert not any(f"texts.{register}" in open_source("scenes").schema() for register in REGISTERS)
    for at in range(3):
        assert source[at].captions() == plain[at].captions()
        [text] = source[at].captions("uplifting")
        assert re.search("lovely|wonderful|brighter|delightful|glad|joy", text)
