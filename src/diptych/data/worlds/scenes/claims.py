"""Single facts of a scene, as true or false sentences and as questions with answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from diptych.data.worlds.scenes.captions import Ways
from diptych.data.worlds.scenes.facts import Item, Scene, Thing
from diptych.data.worlds.scenes.words import (
    COLOURS,
    GROUNDS,
    LINES,
    NUMBERS,
    PALETTES,
    PLACES,
    RENDERINGS,
    SHAPES,
    SIZES,
    TEXTURES,
    article,
    plural,
)

# distance of centres over the mean side below which a claim says that one object is in front of the
# other
_OVERLAP = 0.85
VALUES: dict[str, Sequence[str]] = {
    "colour": tuple(COLOURS),
    "texture": tuple(TEXTURES),
    "size": tuple(SIZES),
    "place": tuple(PLACES),
    "ground": tuple(GROUNDS),
    "rendering": tuple(name for name in RENDERINGS if name != "flat"),
    "palette": tuple(name for name in PALETTES if name != "natural"),
    "frame": tuple(COLOURS),
    "lines": LINES,
    "stamp": SHAPES,
    "number": NUMBERS[1:],
}
_OF_THING = ("colour", "texture", "size", "place")
_HIDDEN = (
    "new",
    "heavy",
    "expensive",
    "popular",
    "loved",
    "cheap",
    "famous",
    "warm",
)  # not visible in an image


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One fact: its `kind` (a key of VALUES, "there" or "front"), the concepts and objects it is
    about, a value.

    The value of "there" is the number of objects; "front" has the nearer object first.
    """

    kind: str
    about: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    value: str = ""
    several: bool = False


def claims(scene: Scene) -> list[Claim]:
    """All facts of long captions, in order."""
    things = scene.known
    count = sum(thing.count for thing in things)
    everything = tuple(at for thing in things for at in thing.ids)
    found = []
    if len(things) == len(scene.things):  # with distractors, the number would be ambiguous
        found.append(Claim(kind="number", ids=everything, value=NUMBERS[count], several=count > 1))
    for thing in things:
        common = {"about": (thing.concept,), "ids": thing.ids, "several": thing.count > 1}
        found.append(Claim(kind="there", value=NUMBERS[thing.count], **common))
        values = {kind: getattr(thing, kind) for kind in _OF_THING}
        found += [
            Claim(kind=kind, value=value, **common) for kind, value in values.items() if value
        ]
    found += [
        Claim(kind="front", about=(a.concept, b.concept), ids=(*a.ids, *b.ids))
        for a in things
        for b in things
        if a.count == b.count == 1
        and a.items[0].depth < b.items[0].depth
        and near(a.items[0], b.items[0]) < _OVERLAP
    ]
    whole = {
        "ground": scene.ground,
        "rendering": scene.rendering,
        "palette": scene.palette,
        "frame": scene.easy,
        "lines": scene.hard,
        "stamp": scene.salient,
    }
    return found + [
        Claim(kind=kind, value=value) for kind, value in whole.items() if value in VALUES[kind]
    ]


def near(a: Item, b: Item) -> float:
    """The distance of two centres over the mean of the two sides."""
    return math.hypot(a.x - b.x, a.y - b.y) / ((a.side + b.side) / 2)


def holds(claim: Claim, scene: Scene) -> bool:
    """Whether the claim is true of the scene; a claim about an absent object is false."""
    if claim.kind == "number":
        return claim.value == NUMBERS[sum(thing.count for thing in scene.known)]
    if claim.kind in ("ground", "rendering", "palette"):
        return claim.value == getattr(scene, claim.kind)
    if claim.kind in ("frame", "lines", "stamp"):
        return (
            claim.value
            == {"frame": scene.easy, "lines": scene.hard, "stamp": scene.salient}[claim.kind]
        )
    things = {thing.concept: thing for thing in scene.known}
    if claim.kind == "there" and claim.value == "no":
        return claim.about[0] not in things
    if not set(claim.about) <= things.keys():
        return False
    thing = things[claim.about[0]]
    if claim.kind == "there":
        return claim.value == NUMBERS[thing.count]
    if claim.kind == "front":
        return thing.items[0].depth < things[claim.about[1]].items[0].depth
    return claim.value == getattr(thing, claim.kind)


def falsified(claim: Claim, scene: Scene, at: float, classes: Sequence[str]) -> Claim:
    """A claim of the same kind that is false of the scene, selected by `at` in [0, 1)."""
    if claim.kind == "front":
        return replace(claim, about=claim.about[::-1], ids=claim.ids[::-1])
    if claim.kind == "there":
        absent = [name for name in classes if all(name != thing.concept for thing in scene.things)]
        if absent and at < 0.75:
            return replace(claim, about=(absent[int(at / 0.75 * len(absent))],), ids=())
        values: Sequence[str] = NUMBERS[1:5]
    else:
        values = VALUES[claim.kind][:4] if claim.kind == "number" else VALUES[claim.kind]
    others = [value for value in values if value != claim.value]
    return replace(claim, value=others[int(at * len(others))], several=claim.several)


def sentence(claim: Claim, ways: Ways, at: float) -> str:
    """The claim as a sentence, whose form and words are selected by `at` in [0, 1)."""
    form = int(at * 2)
    rest = at * 2 % 1
    nouns = [plural(name) if claim.several else name for name in claim.about]
    be = "are" if claim.several else "is"
    if claim.kind == "number":
        what = ("objects", "things") if claim.value != "one" else ("object", "thing")
        be = "is" if claim.value == "one" else "are"
        return f"there {be} {claim.value} {what[form]}."
    if claim.kind == "there":
        one = claim.value == "one"
        many = article(claim.about[0]) if one else f"{claim.value} {plural(claim.about[0])}"
        return f"there {'is' if one else 'are'} {many}." if form else f"the picture shows {many}."
    if claim.kind == "front":
        return f"the {nouns[0]} is in front of the {nouns[1]}."
    words = _words(claim, ways, rest)
    if claim.kind in _OF_THING:
        if form and claim.kind in ("colour", "size"):
            return f"the {claim.kind} of the {nouns[0]} is {words}."
        return f"the {nouns[0]} {be} {words}."
    return {
        "ground": ("the ground is {}.", "what lies below is {}."),
        "rendering": ("this is {}.", "we look at {}."),
        "palette": ("the picture is {}.", "all is {}."),
        "frame": ("the picture is framed in {}.",) * 2,
        "lines": ("the picture is crossed by {} lines.",) * 2,
        "stamp": ("the picture is stamped with a {}.",) * 2,
    }[claim.kind][form].format(words)


def _words(claim: Claim, ways: Ways, at: float) -> str:
    tables = {
        "size": SIZES,
        "texture": TEXTURES,
        "place": PLACES,
        "ground": GROUNDS,
        "rendering": RENDERINGS,
        "palette": PALETTES,
    }
    if claim.kind not in tables:
        return claim.value
    said = tables[claim.kind][claim.value]
    return said[ways.lexicon] if ways.lexicon >= 0 else said[int(at * len(said))]


def undecided(thing: Thing, at: float) -> str:
    """A sentence about a thing that an image can neither confirm nor refute."""
    noun, be = (plural(thing.concept), "are") if thing.count > 1 else (thing.concept, "is")
    return f"the {noun} {be} {_HIDDEN[int(at * len(_HIDDEN))]}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question with its only right answer, and up to four choices that include it.

    `usual` of one about a colour: whether it is the usual one; None if no colour is.
    """

    text: str
    answer: str
    choices: tuple[str, ...]
    ids: tuple[int, ...]
    usual: bool | None = None


def question(
    claim: Claim,
    scene: Scene,
    at: float,
    classes: Sequence[str],
    usual: Mapping[str, str] | None = None,
) -> Question | None:
    """The question that a true claim answers; None if there is none.

    `usual` are colours by concept: they are among the choices.
    """
    form = int(at * 2)
    rest = at * 2 % 1
    noun = plural(claim.about[0]) if claim.several and claim.about else "".join(claim.about[:1])
    be = "are" if claim.several else "is"
    if (
        claim.kind == "place"
        and form
        and sum(item.place == claim.value for item in scene.items) == 1
    ):
        others = [name for name in classes if name != claim.about[0]]
        return _asked(f"what is {PLACES[claim.value][0]}?", claim.about[0], others, rest, claim)
    if claim.kind == "there" and form:
        other = falsified(claim, scene, rest, classes)
        absent = rest < 0.5 and holds(replace(other, value="no"), scene)
        name = other.about[0] if absent else claim.about[0]
        ids = () if absent else claim.ids
        answer = "no" if absent else "yes"
        return _asked(
            f"is there {article(name)}?", answer, ["yes", "no"], rest, replace(claim, ids=ids)
        )
    asked: dict[str, str] = {
        "number": f"how many {'objects' if form else 'things'} are there?",
        "there": f"how many {plural(claim.about[0])} are there?" if claim.about else "",
        "colour": f"what colour {be} the {noun}?",
        "texture": f"what pattern {'do' if claim.several else 'does'} the {noun} have?",
        "size": f"how large {be} the {noun}?",
        "place": f"where is the {noun}?",
        "ground": "what is the ground?",
        "stamp": "what is stamped on the picture?",
    }
    if claim.kind not in asked:
        return None
    values = NUMBERS[1:5] if claim.kind in ("number", "there") else VALUES[claim.kind]
    if claim.kind == "colour" and usual:
        expected = usual[claim.about[0]]
        found = _asked(asked["colour"], claim.value, values, rest, claim, first=expected)
        return replace(found, usual=claim.value == expected)
    return _asked(asked[claim.kind], claim.value, values, rest, claim)


def expectation(claim: Claim, usual: Mapping[str, str], at: float) -> Question | None:
    """Of a claim about a colour, the question whether it is the usual one; None of others."""
    if claim.kind != "colour":
        return None
    [name] = claim.about
    noun, be = (plural(name), "are") if claim.several else (name, "is")
    agrees = claim.value == usual[name]
    answer = "yes" if agrees else "no"
    found = _asked(f"{be} the {noun} {usual[name]}?", answer, ("yes", "no"), at, claim)
    return replace(found, usual=agrees)


def _asked(
    text: str, answer: str, values: Sequence[str], at: float, claim: Claim, first: str = ""
) -> Question:
    """A question with up to three other values, `first` among them if it is not the answer, and the
    answer at a position given by `at`."""
    others = [value for value in values if value != answer]
    start = int(at * len(others)) if others else 0
    ordered = others[start:] + others[:start]
    choices = sorted(ordered, key=lambda value: value != first)[:3]
    choices.insert(int(at * 7919 % 1 * (len(choices) + 1)), answer)
    return Question(text=text, answer=answer, choices=tuple(choices), ids=claim.ids)
