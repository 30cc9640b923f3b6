"""A parser from captions to facts, for this world's texts and those of models trained on them.

A text is split into clauses. A clause names at most one thing, and its words of size, texture,
colour and place describe that thing. Unknown words are ignored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

from diptych.data.worlds.scenes.concepts import KINDS, table
from diptych.data.worlds.scenes.facts import Scene, Thing
from diptych.data.worlds.scenes.words import (
    COLOURS,
    GROUNDS,
    NUMBERS,
    PALETTES,
    PLACES,
    RENDERINGS,
    SIZES,
    TEXTURES,
    plural,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedThing:
    """The facts that a clause states of a thing; "" and None where it states none."""

    noun: str  # a concept, or a kind if `coarse`
    coarse: bool = False
    definite: bool = False  # "the cat": other clauses may describe it too
    count: int | None = None
    size: str = ""
    texture: str = ""
    colour: str = ""
    place: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedCaption:
    """All facts that a text states."""

    things: tuple[ParsedThing, ...] = ()
    front: tuple[tuple[str, str], ...] = ()  # the nearer concept first
    number: int | None = None
    ground: str = ""
    rendering: str = ""
    palette: str = ""
    frame: str = ""
    lines: str = ""
    stamp: str = ""


_CUT = re.compile(r"[,;:.!?|]|\b(?:and|with|on|in front of)\b")
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")


def parse(text: str) -> ParsedCaption:
    """The facts in a text.

    >>> told = parse("a pencil sketch of two small red cats and a key in the top left, on a lawn")
    >>> [(thing.noun, thing.count, thing.colour, thing.place) for thing in told.things]
    [('cat', 2, 'red', ''), ('key', 1, '', 'top left')]
    >>> told.rendering, told.ground
    ('pencil', 'grass')
    """
    text = text.lower().partition("; the ")[0]  # behind it a film's caption tells what happens
    whole: dict[str, str] = {}
    for name, (pattern, meaning) in _whole().items():
        if found := pattern.search(text):
            whole[name] = meaning[found[1]]
            text = text[: found.start()] + " , " + text[found.end() :]
    fronts = tuple(
        (_noun(a)[0], _noun(b)[0]) for a, b in re.findall(r"([^,.;]*) in front of ([^,.;]*)", text)
    )
    things: list[ParsedThing] = []
    number = None
    for clause in _CUT.split(text):
        thing, count = _clause(clause)
        number = count if count is not None else number
        if thing:
            things.append(thing)
    return ParsedCaption(things=tuple(things), front=fronts, number=number, **whole)


@cache
def _whole() -> dict[str, tuple[re.Pattern[str], Mapping[str, str]]]:
    """Patterns for facts of the whole image, and the meaning of the group of each."""
    tables = {
        "rendering": (
            "({})(?: of)?",
            {name: ways for name, ways in RENDERINGS.items() if name != "flat"},
        ),
        "palette": ("({})", {name: ways for name, ways in PALETTES.items() if name != "natural"}),
        "frame": ("framed in ({})", {name: (name,) for name in COLOURS}),
        "lines": (
            "crossed by ({}) lines",
            {name: (name,) for name in ("level", "upright", "rising", "falling")},
        ),
        "stamp": (
            "stamped with a ({})",
            {name: (name,) for name, concept in table().items() if concept.index < 0},
        ),
        "ground": ("({})", GROUNDS),
    }
    found = {}
    for name, (form, values) in tables.items():
        meaning = {way: value for value, ways in values.items() for way in ways}
        ways = "|".join(re.escape(way) for way in sorted(meaning, key=len, reverse=True))
        found[name] = (re.compile(rf"\b{form.format(ways)}\b"), meaning)
    return found


@cache
def _places() -> tuple[re.Pattern[str], Mapping[str, str]]:
    meaning = {way.partition(" the ")[2]: value for value, ways in PLACES.items() for way in ways}
    ways = "|".join(sorted(meaning, key=len, reverse=True))
    return re.compile(rf"(?:(?:in|at|to|into) )?the ({ways})\b"), meaning


@cache
def _words() -> dict[str, tuple[str, str]]:
    """Word -> (aspect, value)."""
    found = {way: ("size", value) for value, ways in SIZES.items() for way in ways}
    found |= {way: ("texture", value) for value, ways in TEXTURES.items() for way in ways}
    return found | {value: ("colour", value) for value in COLOURS} | {"medium": ("size", "medium")}


@cache
def _nouns() -> dict[str, tuple[str, bool]]:
    """Noun, singular or plural -> (concept or kind, whether it is a kind); concepts override kinds
    of the same name."""
    found = {form: (kind, True) for kind in KINDS for form in (kind, plural(kind))}
    return found | {form: (name, False) for name in table() for form in (name, plural(name))}


def _noun(clause: str) -> tuple[str, bool, str]:
    """The first noun of a clause, whether it is a kind, and its form; "" without one."""
    words = _WORD.findall(clause)
    for at in range(len(words)):
        for form in (" ".join(words[at : at + 2]), words[at]):
            if form in _nouns():
                return *_nouns()[form], form
    return "", False, ""


def _clause(clause: str) -> tuple[ParsedThing | None, int | None]:
    """The thing that a clause describes, or the number of all objects."""
    pattern, meaning = _places()
    found = pattern.search(clause)
    place = meaning[found[1]] if found else ""
    rest = clause[: found.start()] + clause[found.end() :] if found else clause
    words = _WORD.findall(rest)
    count = next((NUMBERS.index(word) for word in words if word in NUMBERS), None)
    if {"object", "objects", "thing", "things"} & set(words):
        return None, count
    noun, coarse, form = _noun(rest)
    if not noun:
        return None, None
    before = rest[: rest.index(form)]
    if count is None and re.search(r"\ban?\b", before):
        count = 1
    said = dict(_words()[word] for word in words if word in _words())
    definite = re.search(r"\bthe\b", before) is not None
    return ParsedThing(
        noun=noun, coarse=coarse, definite=definite, count=count, place=place, **said
    ), None


def mistakes(parsed: ParsedCaption, scene: Scene) -> list[str]:
    """The kinds of the stated facts that are false of the scene: "there", "count", "colour",
    "ground", …

    Things named only by their kind are matched with the scene's things so as to minimise mistakes.
    """
    wrong: list[str] = []
    known = scene.known
    by_noun: dict[tuple[str, bool], list[ParsedThing]] = {}
    for thing in parsed.things:
        by_noun.setdefault((thing.noun, thing.coarse), []).append(thing)
    for (noun, coarse), group in by_noun.items():
        there = [
            thing
            for thing in known
            if noun == (table()[thing.concept].coarse if coarse else thing.concept)
        ]
        wrong += _unmatched(group, there)
    things = {thing.concept: thing for thing in known}
    for a, b in parsed.front:
        if not (
            a in things and b in things and things[a].items[0].depth < things[b].items[0].depth
        ):
            wrong.append("front")
    if parsed.number is not None and parsed.number != sum(thing.count for thing in known):
        wrong.append("number")
    shown = {
        "frame": scene.easy,
        "lines": scene.hard,
        "stamp": scene.salient,
        "ground": scene.ground,
        "rendering": scene.rendering,
        "palette": scene.palette,
    }
    return wrong + [
        kind for kind, value in shown.items() if getattr(parsed, kind) not in ("", value)
    ]


def _unmatched(group: Sequence[ParsedThing], there: Sequence[Thing]) -> list[str]:
    """The mistakes about things with one noun."""
    absent = [thing for thing in group if thing.count == 0]
    present = [thing for thing in group if thing.count != 0]
    wrong = ["there"] * (len(absent) if there else 0)
    if not there:
        return wrong + ["there"] * len(present)
    if len(there) == 1 or any(thing.definite for thing in present):
        again = max(
            0, sum(not thing.definite for thing in present) - len(there)
        )  # two cats are stated, one is there
        best = [min((_differs(one, thing) for thing in there), key=len) for one in present]
        return wrong + ["there"] * again + [kind for found in best for kind in found]
    several = [*there, *[None] * max(0, len(present) - len(there))]
    options = (
        [
            kind
            for one, thing in zip(present, order, strict=False)
            for kind in (_differs(one, thing) if thing else ["there"])
        ]
        for order in permutations(several, len(present))
    )
    return wrong + min(options, key=len)


def _differs(parsed: ParsedThing, thing: Thing) -> list[str]:
    """The kinds of facts in which a thing differs from its description."""
    kinds = ("count", "size", "texture", "colour", "place")
    return [kind for kind in kinds if getattr(parsed, kind) not in (None, "", getattr(thing, kind))]
