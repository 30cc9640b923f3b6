"""Figures at random, and their edits: one kind of fact is changed and all else kept.

letters     the letters of the points are dealt out anew, so that the figure is another one
number      a side has another length
relation    another relation of the same group holds: of two sides, of a line, or of a circle
shape       another shape in which the relation holds too
renamed     no edit: another name of the same figure
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations

import numpy as np

from diptych.data.worlds.diagrams.figures import SHAPES, Figure, Relation, program_of, relations_of
from diptych.data.worlds.diagrams.program import CIRCLES, LINES, MARKS
from diptych.rng import generator

EDITS = ("letters", "number", "relation", "shape", "renamed")
GROUPS: tuple[tuple[str, ...], ...] = (("parallel", "equal"), ("perpendicular",), LINES, CIRCLES)
"""Relations that an edit exchanges. That parallel sides are perpendicular would be a gross error."""


def drawn(
    rng: np.random.Generator, letters: str, numbers: tuple[int, ...], lengths: int, turn: float
) -> Figure:
    """Draw a figure: a shape with equal frequency, then the kind of its relation, then the rest."""
    shape = _pick(rng, list(SHAPES))
    corners = len(SHAPES[shape])
    options = relations_of(shape)
    kind = _pick(rng, list(dict.fromkeys(each[0] for each in options)))
    relation = _pick(rng, [each for each in options if each[0] == kind])
    extra = 0 if kind in MARKS else 1
    order = [int(at) for at in rng.permutation(len(letters))[: corners + extra]]
    free = [side for side in range(corners) if side != _foot_side(relation)]
    sides = sorted(int(at) for at in rng.permutation(free)[:lengths])
    return Figure(
        shape=shape,
        letters="".join(letters[at] for at in order),
        relation=relation,
        lengths=tuple((side, _pick(rng, list(numbers))) for side in sides),
        turn=float(rng.uniform(-turn, turn)),
        radius=float(rng.uniform(0.24, 0.29)),
        centre=(float(rng.uniform(0.46, 0.54)), float(rng.uniform(0.46, 0.54))),
        start=int(rng.integers(corners)),
        back=bool(rng.integers(2)),
        seed=int(rng.integers(2**63)),
    )


def _foot_side(relation: Relation) -> int:
    """The side that has a foot, and so no room for a length; -1 for none."""
    kind, corner, _ = relation
    return (corner + 1) % 3 if kind in LINES else -1


def _pick(rng: np.random.Generator, options: list):
    return options[int(rng.integers(len(options)))]


def edits_of(
    figure: Figure, kinds: tuple[str, ...], most: int, numbers: tuple[int, ...]
) -> list[Figure]:
    """Return at most `most` edits of a figure, of its kinds in turn, which state different facts.

    Kinds that permit no more are left out. Renamed figures state the same facts by other names.
    """
    makers = [
        _MAKERS[kind](figure, generator(figure.seed, "edit", kind), numbers) for kind in kinds
    ]
    seen = {program_of(figure).facts}
    found: list[Figure] = []
    waiting = list(zip(kinds, makers, strict=True))
    while waiting and len(found) < most:
        kind, maker = waiting.pop(0)
        for edit in maker:
            facts = program_of(edit).facts
            if kind == "renamed" or facts not in seen:
                seen.add(facts)
                found.append(replace(edit, kind=kind))
                waiting.append((kind, maker))
                break
    return found


_Maker = Iterator[Figure]


def _shuffled(rng: np.random.Generator, options: list) -> list:
    return [options[int(at)] for at in rng.permutation(len(options))]


def _letters(figure: Figure, rng: np.random.Generator, numbers: tuple[int, ...]) -> _Maker:
    """Exchanges of two letters first, then other orders."""
    orders = _shuffled(rng, list(permutations(figure.letters)))
    moved = [sum(a != b for a, b in zip(order, figure.letters, strict=True)) for order in orders]
    for at in sorted(range(len(orders)), key=moved.__getitem__):
        if moved[at]:
            yield replace(figure, letters="".join(orders[at]))


def _number(figure: Figure, rng: np.random.Generator, numbers: tuple[int, ...]) -> _Maker:
    options = [
        (at, number)
        for at, (_, old) in enumerate(figure.lengths)
        for number in numbers
        if number != old
    ]
    for at, number in _shuffled(rng, options):
        lengths = list(figure.lengths)
        lengths[at] = (lengths[at][0], number)
        yield replace(figure, lengths=tuple(lengths))


def _relation(figure: Figure, rng: np.random.Generator, numbers: tuple[int, ...]) -> _Maker:
    [group] = [group for group in GROUPS if figure.relation[0] in group]
    measured = {side for side, _ in figure.lengths}
    for relation in _shuffled(rng, list(relations_of(figure.shape))):
        if relation[0] in group and _foot_side(relation) not in measured:
            yield replace(figure, relation=relation)


def _shape(figure: Figure, rng: np.random.Generator, numbers: tuple[int, ...]) -> _Maker:
    for shape in _shuffled(rng, list(SHAPES)):
        same = len(SHAPES[shape]) == figure.corners
        if same and figure.relation in relations_of(shape):
            yield replace(figure, shape=shape)


def _renamed(figure: Figure, rng: np.random.Generator, numbers: tuple[int, ...]) -> _Maker:
    names = [(start, back) for start in range(figure.corners) for back in (False, True)]
    for start, back in _shuffled(rng, names):
        if (start, back) != (figure.start, figure.back):
            yield replace(figure, start=start, back=back)


_MAKERS: dict[str, Callable[[Figure, np.random.Generator, tuple[int, ...]], _Maker]] = {
    "letters": _letters,
    "number": _number,
    "relation": _relation,
    "shape": _shape,
    "renamed": _renamed,
}
