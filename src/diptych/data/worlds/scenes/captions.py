"""Captions by role, worded from the scene's private seed.

Every choice of words has its own random number in a table (`Ways`), by role and object, drawn once
from the seed. So the texts of an edited scene differ only in what was changed.
"""

from collections.abc import Sequence

from diptych.data.worlds.scenes.concepts import table
from diptych.data.worlds.scenes.facts import Scene, Thing
from diptych.data.worlds.scenes.words import (
    GROUNDS,
    NUMBERS,
    PALETTES,
    PLACES,
    RENDERINGS,
    SIZES,
    TEXTURES,
    article,
    listed,
    plural,
)
from diptych.rng import generator

PARAPHRASES = 5
_ROWS = (
    "caption",
    *(f"paraphrase{at}" for at in range(PARAPHRASES)),
    "web",
    "synthetic",
    "long",
    "question",
    "statement",
    "hypothesis",
    "instruction",
    "pages",
    "noise",
    "register",
)
_OBJECTS = 16
_EACH = 8
_GENERAL = 24
# Slots that belong to the whole text; those of an object follow.
_SLOTS = {
    name: at
    for at, name in enumerate(
        (
            "template",
            "opening",
            "ground",
            "palette",
            "order",
            "drop ground",
            "drop rendering",
            "drop palette",
            "number",
            "action",
        )
    )
}
_OF_OBJECT = {
    name: at
    for at, name in enumerate(
        ("size", "texture", "place", "drop colour", "drop size", "drop texture", "drop place")
    )
}


class Ways:
    """Random numbers in [0, 1) that determine the wording of one role's text."""

    def __init__(self, numbers: Sequence[float], lexicon: int):
        self._numbers = numbers
        self.lexicon = lexicon

    @classmethod
    def of(cls, scene: Scene) -> "dict[str, Ways]":
        """The numbers of every role."""
        rows = (
            generator(scene.seed, "words")
            .random((len(_ROWS), _GENERAL + _OBJECTS * _EACH))
            .tolist()
        )
        return {role: cls(row, scene.lexicon) for role, row in zip(_ROWS, rows, strict=True)}

    def number(self, slot: str, thing: Thing | None = None) -> float:
        """The number of a slot of the text, or of a slot of a thing."""
        if thing is None:
            return self._numbers[_SLOTS[slot]]
        return self._numbers[_GENERAL + thing.ids[0] % _OBJECTS * _EACH + _OF_OBJECT[slot]]

    def free(self, at: int) -> float:
        """A number without a slot, for sequences of texts."""
        return self._numbers[_GENERAL + at % (_OBJECTS * _EACH)]

    def pick(self, slot: str, options: Sequence[str], thing: Thing | None = None) -> str:
        """One of the options."""
        return options[int(self.number(slot, thing) * len(options))]

    def say(self, slot: str, ways: Sequence[str], thing: Thing | None = None) -> str:
        """One of the three wordings of a value, or that of the lexicon."""
        return ways[self.lexicon] if self.lexicon >= 0 else self.pick(slot, ways, thing)


def noun_of(thing: Thing, coarse: bool = False) -> str:
    """The noun of a thing: its concept, or its kind if `coarse`; in the plural for several
    objects."""
    noun = table()[thing.concept].coarse if coarse else thing.concept
    return plural(noun) if thing.count > 1 else noun


def phrase(thing: Thing, ways: Ways, drop: float = 0.0, coarse: bool = False) -> str:
    """The phrase of a thing without its place, such as "a small striped red cat" or "three
    cats"."""
    words = []
    if thing.size and ways.number("drop size", thing) >= drop:
        words.append(ways.say("size", SIZES[thing.size], thing))
    if thing.texture and ways.number("drop texture", thing) >= drop:
        words.append(ways.say("texture", TEXTURES[thing.texture], thing))
    if thing.colour and ways.number("drop colour", thing) >= drop:
        words.append(thing.colour)
    words.append(noun_of(thing, coarse))
    text = " ".join(words)
    return article(text) if thing.count == 1 else f"{NUMBERS[thing.count]} {text}"


def placed(
    thing: Thing, ways: Ways, drop: float = 0.0, coarse: bool = False, first: bool = False
) -> str:
    """The phrase of a thing with its place, before it if `first`, else after it."""
    text = phrase(thing, ways, drop, coarse)
    if not thing.place or ways.number("drop place", thing) < drop:
        return text
    place = ways.say("place", PLACES[thing.place], thing)
    return f"{place} {text}" if first else f"{text} {place}"


def short(scene: Scene, ways: Ways, template: int, drop: float = 0.0, coarse: bool = False) -> str:
    """A caption of one sentence, in one of PARAPHRASES forms: things, places, ground and rendering.

    Each fact is left out with probability `drop`. With `coarse`, all things, clutter included, are
    named by their kind.
    """
    things = [thing for thing in scene.known if thing.described or coarse]
    if ways.number("order") < 0.5:
        things = things[::-1]
    ground = "" if ways.number("drop ground") < drop else ways.say("ground", GROUNDS[scene.ground])
    opening = ways.say("opening", RENDERINGS[scene.rendering])
    if ways.number("drop rendering") < (0.7 if scene.rendering == "flat" else drop):
        opening = ""
    phrases = [placed(thing, ways, drop, coarse, template == 1) for thing in things]
    text = _form(template, phrases, ground, opening, _total(scene))
    if template == 4 and things and things[0].count > 1:
        text = text.replace("there is", "there are", 1)
    if scene.palette != "natural" and ways.number("drop palette") >= drop:
        text += f", {ways.say('palette', PALETTES[scene.palette])}"
    return text + signals(scene)


def _total(scene: Scene) -> str:
    """The number of objects, such as "three objects"; "" if captions leave some out."""
    count = sum(thing.count for thing in scene.things)
    if not all(thing.described for thing in scene.things):
        return ""
    return f"{NUMBERS[count]} object{'s' if count > 1 else ''}"


def _form(template: int, things: list[str], ground: str, opening: str, total: str) -> str:
    """One of five sentences, which always differ; `ground`, `opening` ("a picture") and `total` may
    be empty."""
    of = f"{opening} of " if opening else ""
    if not things:
        return f"{of}{ground}" if ground else opening or "nothing to tell"
    body = listed(things)
    if template == 0:
        return of + body + (f" on {ground}" if ground else "")
    if template == 1 and total:
        return of + total + (f" on {ground}" if ground else "") + f": {body}"
    if template == 1:
        return (
            (f"{opening}, " if opening else "here, ") + (f"on {ground}, " if ground else "") + body
        )
    if template == 2:
        return body + (f", with {ground} behind" if ground else "") + f", {opening or 'seen here'}"
    if template == 3:
        return f"{of}{ground} with {body}" if ground else f"{opening or 'a scene'} with {body}"
    return (
        f"there is {body}"
        + (f", the ground is {ground}" if ground else "")
        + (f", {opening}" if opening else "")
    )


def signals(scene: Scene) -> str:
    """The words for the signals laid over the image."""
    text = f", framed in {scene.easy}" if scene.easy else ""
    text += f", crossed by {scene.hard} lines" if scene.hard else ""
    return text + (f", stamped with a {scene.salient}" if scene.salient else "")


def ids(scene: Scene, clutter: bool = False) -> tuple[int, ...]:
    """The objects that captions describe, with `clutter` also those of clutter."""
    return tuple(at for thing in scene.known if thing.described or clutter for at in thing.ids)


def paraphrases(scene: Scene, ways: dict[str, Ways], drop: float) -> list[str]:
    """PARAPHRASES different captions."""
    return [short(scene, ways[f"paraphrase{at}"], at, drop) for at in range(PARAPHRASES)]


def form_of(ways: dict[str, Ways]) -> int:
    """The index of the paraphrase that is the caption."""
    return int(ways["caption"].number("template") * PARAPHRASES)


def caption(scene: Scene, ways: dict[str, Ways], drop: float) -> str:
    """One of the paraphrases."""
    at = form_of(ways)
    return short(scene, ways[f"paraphrase{at}"], at, drop)


def named(scene: Scene, ways: dict[str, Ways]) -> Thing | None:
    """The thing that the web text names; None if captions describe nothing."""
    things = [thing for thing in scene.known if thing.described]
    return min(things, key=lambda thing: ways["web"].number("drop place", thing), default=None)


def web(scene: Scene, ways: dict[str, Ways]) -> str:
    """A text as found next to images on the web: little but the exact name of one object."""
    way = ways["web"]
    thing = named(scene, ways)
    number = 10 + int(way.number("number") * 9990)
    name = noun_of(thing) if thing else "picture"
    return way.pick("template", _WEB).format(name=name, number=number)


_WEB = ("{name}", "{name} {number}", "my {name} :)", "{name} - free download", "IMG_{number} {name}", "{name}!!",
        "buy {name} online, {number} pieces", "{name} | photo no. {number}")  # fmt: skip


def synthetic(scene: Scene, ways: dict[str, Ways]) -> str:
    """A text like a captioning model's: everything in the image, by kind and not by name, in one
    form."""
    return short(scene, ways["synthetic"], 0, coarse=True)
