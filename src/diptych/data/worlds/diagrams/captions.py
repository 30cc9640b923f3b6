"""Captions of diagram programs in several wordings, and their parser."""

import re

from diptych.data.worlds.diagrams.figures import SHAPES
from diptych.data.worlds.diagrams.program import Fact, Program, relation, ring
from diptych.errors import InputError

WORDINGS = 3
_PHRASES = {
    "parallel": "{0} and {1} are marked parallel",
    "equal": "{0} and {1} are marked equal",
    "perpendicular": "{0} and {1} are marked perpendicular",
    "altitude": "{0} is marked as altitude to {1}",
    "median": "{0} is marked as median to {1}",
    "bisector": "{0} is marked as bisector to {1}",
    "inscribed": "circle {0} is inscribed in {1}",
    "circumscribed": "circle {0} is circumscribed about {1}",
}


def caption_of(program: Program, wording: int) -> str:
    """Return the caption of a program in one of the wordings (a number of any size).

    >>> from diptych.data.worlds.diagrams import Config, World
    >>> world = World(Config())
    >>> for text in (world.captions(world.sample(0, at))[0].text for at in range(3)):
    ...     print(text)
    In kite AEHM, circle L is inscribed in AEHM and EH = 4
    square FADP where FA and AD are marked perpendicular and PF = 5
    kite BANM where circle E is inscribed in BANM and AN = 5
    """
    figures = [f"{shape} {name}" for shape, name in program.polygons]
    facts = [_PHRASES[kind].format(first, second) for kind, first, second in program.relations]
    facts += [f"{segment} = {value}" for segment, value in program.lengths]
    if not figures and not facts:
        figures = [f"segment {segment}" for segment in program.segments]
        figures += [f"circle {centre}" for centre, _ in program.circles]
    if not figures or not facts:
        return _joined(figures or facts)
    form = wording % WORDINGS
    if form == 0:
        return f"{_joined(figures)} where {_joined(facts)}"
    if form == 1:
        return f"{_joined(facts)} in {_joined(figures)}"
    return f"In {_joined(figures)}, {_joined(facts)}"


def _joined(parts: list[str]) -> str:
    """The parts as a list in words."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


_SHAPE = re.compile(rf"\b({'|'.join(SHAPES)}) ([A-Z]{{3,}})\b")
_LENGTH = re.compile(r"\b([A-Z]{2}) = ([^\s,]+)")
_RELATIONS = {
    kind: re.compile(r"\b" + phrase.format("([A-Z]{1,2})", "([A-Z]{2,})") + r"\b")
    for kind, phrase in _PHRASES.items()
}


def parse(caption: str) -> frozenset[Fact]:
    """Return the polygons, relations and lengths that a caption states, as in `Program.facts`.

    Raises InputError for a text that states none.

    >>> sorted(parse("In square CDAB, AB and DC are marked parallel and AB = 5"))
    [('length', 'AB', '5'), ('parallel', 'AB', 'CD'), ('polygon', 'square', 'ABCD')]
    """
    found: set[Fact] = {("polygon", shape, ring(name)) for shape, name in _SHAPE.findall(caption)}
    found |= {("length", ring(segment), value) for segment, value in _LENGTH.findall(caption)}
    for kind, pattern in _RELATIONS.items():
        found |= {relation(kind, first, second) for first, second in pattern.findall(caption)}
    if not found:
        raise InputError(
            f"the caption {caption!r} states no fact of a diagram; write one like {_EXAMPLE!r}"
        )
    return frozenset(found)


_EXAMPLE = "In square ABCD, AB and CD are marked parallel"
