"""How many of the facts that a text states are true of a scene, or of its clip."""

import re
from dataclasses import fields, replace

from diptych.data.worlds.scenes.captions import noun_of
from diptych.data.worlds.scenes.facts import Scene
from diptych.data.worlds.scenes.film import ACTIONS, frames
from diptych.data.worlds.scenes.parse import ParsedCaption, ParsedThing, mistakes, parse
from diptych.data.worlds.scenes.words import COLOURS

_OF_THING = ("count", "size", "texture", "colour", "place")


def judged(text: str, scene: Scene, count: int) -> tuple[int, int]:
    """How many facts a text states, and how many of them are true.

    Facts are those of `parse`: that a thing is there, and its number, size, texture, colour and place;
    what is in front of what; the ground and the like; and of a clip of `count` frames what happens. Of a
    thing that is not there all facts are false. As things change in a clip, its facts are those of the
    frame of which the text has the fewest wrong.
    """
    actions = _actions()
    happens = [(found["noun"], _meant(found)) for found in actions.finditer(text.lower())]
    parsed = parse(actions.sub(" . ", text.lower()))
    stated = sum(1 + _attributes(thing) for thing in parsed.things) + _of_whole(parsed)
    shown = [scene, *frames(scene, count)] if scene.film else [scene]
    wrong = min(_wrong(parsed, frame) for frame in shown)
    true = sum(_happens(noun, action, colour, scene) for noun, (action, colour) in happens)
    return stated + len(happens), stated - wrong + true


def _wrong(parsed: ParsedCaption, scene: Scene) -> int:
    """The facts that are false of a scene."""
    wrong = len(mistakes(replace(parsed, things=()), scene))
    for thing in parsed.things:
        found = mistakes(ParsedCaption(things=(thing,)), scene)
        wrong += 1 + _attributes(thing) if "there" in found else len(found)
    return wrong


def _of_whole(parsed: ParsedCaption) -> int:
    """The facts that are of no single thing."""
    names = [item.name for item in fields(ParsedCaption) if item.name not in ("things", "front")]
    return len(parsed.front) + sum(getattr(parsed, name) not in ("", None) for name in names)


def _attributes(thing: ParsedThing) -> int:
    return sum(getattr(thing, kind) not in ("", None) for kind in _OF_THING)


def _actions() -> re.Pattern[str]:
    """What happens to "the NOUN", in any of the wordings."""
    ways = sorted((way for each in ACTIONS.values() for way in each), key=len, reverse=True)
    colours = "|".join(COLOURS)
    wordings = "|".join(
        re.escape(way).replace(re.escape("{colour}"), rf"(?:{colours})\b") for way in ways
    )
    return re.compile(rf"(?:[;,.]\s*)?\bthe (?P<noun>[a-z][a-z -]*?) (?P<way>{wordings})(?![a-z])")


def _meant(found: re.Match[str]) -> tuple[str, str]:
    """The action of a wording, and the colour that it names, if it does."""
    said = found["way"]
    for action, ways in ACTIONS.items():
        for way in ways:
            start, colour, _ = way.partition("{colour}")
            if said == way or (colour and said.startswith(start) and said[len(start) :] in COLOURS):
                return action, said[len(start) :] if colour else ""
    raise AssertionError("the pattern is of these wordings")


def _happens(noun: str, action: str, colour: str, scene: Scene) -> bool:
    film = scene.film
    if film is None or film.action != action or noun != noun_of(scene.things[film.about]):
        return False
    return not colour or (film.after is not None and film.after.colour == colour)
